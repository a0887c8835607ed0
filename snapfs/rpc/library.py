"""grpc, imported in the one way that suits us: whoever needs it takes it from here.

Its C core reads its environment when it is loaded:

- No fork handlers: nobody here forks without exec, and with them every subprocess waits for grpc's threads.
- No log of its own: a client that breaks off a handshake is no concern of a daemon's log or a command's terminal;
  what matters comes back as a status.

Settings of the user's win.
"""

from __future__ import annotations

import os

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

import grpc

__all__ = ["grpc"]
