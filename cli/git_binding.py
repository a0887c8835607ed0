"""The way to the store that git binds to a repository."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from snapfs import errors
from snapfs.git.repository import Binding

from .session import Shown, connected

if TYPE_CHECKING:
    from snapfs.client import Client


def checked(binding: Binding) -> Binding:
    """Raises NotFound: there is no binding, or its store is gone; NotPermitted: it is out of reach."""
    if not binding.complete:
        raise errors.NotFound("no volume follows this repository", hint="snap git install --volume NAME")
    try:
        gone = not binding.address and not Path(binding.store).is_dir()
    except PermissionError:
        raise errors.NotPermitted(f"no permission to use the store {binding.store}") from None
    if gone:
        raise errors.NotFound(f"the store {binding.store} is gone", hint="the data does not follow git")
    return binding


@contextmanager
def bound(binding: Binding, *, deadline: float | None = None) -> Iterator[Client]:
    """A client of what a complete binding names.  What it says of tokens and certificates goes before what the
    environment says: that may be for another daemon."""
    store = None if binding.address else Path(binding.store)
    shown = Shown(token_file=binding.token_file, ca=binding.ca, certificate=binding.certificate, key=binding.key)
    with connected(store, address=binding.address, shown=shown, deadline=deadline) as calls:
        yield calls
