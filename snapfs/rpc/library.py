"""grpc, imported in the one way that suits us: whoever needs it takes it from here.

Its C core reads its environment when it is loaded:

- No fork handlers: nobody here forks without exec, and with them every subprocess waits for grpc's threads.
- No log of its own: a client that breaks off a handshake is no concern of a daemon's log or a command's terminal;
  what matters comes back as a status.  Nor of its Python layer around it, which would log whole headers that are no
  UTF-8: a token with a slip of the pen would stand there.

Settings of the user's win.
"""

from __future__ import annotations

import logging
import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)

__all__ = ["grpc"]
