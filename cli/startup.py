"""What makes a command start quickly: modules that libraries import and a command hardly ever uses are loaded when they
are first used, not when they are imported; and garbage that refers to itself is searched for seldom.

Invariants: nothing is taken away, an attribute of such a module loads it; only the program itself does this, never who
imports the package; nothing else imports before it.

Measured: without it `snap create` takes a fifth more time.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import LazyLoader, find_spec
from types import ModuleType
from typing import Final

DEFERRED: Final = frozenset(
    {
        "asyncio",  # gRPC's core names it for its asyncio half
        "calendar",  # protobuf has it for times as text
        "google.protobuf.internal.python_message",  # the messages of a protobuf without its C core
        "grpc.aio",
        "ipaddress",  # urllib.parse, which pathlib imports
        # what msgspec has besides its records
        "msgspec.inspect",
        "msgspec.json",
        "msgspec.msgpack",
        "msgspec.toml",
        "msgspec.yaml",
        "selectors",  # socket has it for sending whole files
        "snapfs.rpc.convert",
        # of a client's many services a command uses one (files that others import cannot be deferred: the pool of
        # messages wants them first)
        "snapfs.v1.access_pb2",
        "snapfs.v1.event_pb2",
        "snapfs.v1.retention_pb2",
        "snapfs.v1.space_pb2",
        "snapfs.v1.store_pb2",
        "snapfs.v1.transfer_pb2",
        "uuid",  # click has a type of parameter for it
    }
)


ALLOCATIONS_PER_SEARCH: Final = 100_000
"""For garbage that refers to itself, instead of 700: importing modules makes none."""


class _Finder:
    """Finds what the others find, and defers it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in DEFERRED:
            return None
        sys.meta_path.remove(self)
        try:
            spec = find_spec(fullname)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None:
            spec.loader = LazyLoader(spec.loader)
        return spec


def defer() -> None:
    """From now on, for this process."""
    sys.meta_path.insert(0, _Finder())


def search_seldom() -> None:
    """For a process that ends soon: look for garbage that refers to itself seldom."""
    gc.set_threshold(ALLOCATIONS_PER_SEARCH)
