"""What a command line says beside its verb's own arguments; no click here."""

from __future__ import annotations

from collections.abc import Sequence


class Misuse(Exception):
    """A command line that cannot be meant: the message says why."""


class Invocation:
    """What the whole run needs to know of its options; ``main`` makes it, click carries it as ``obj``."""

    def __init__(
        self,
        *,
        json: bool = False,
        store: str = "",
        address: str = "",
        token_file: str = "",
        ca: str = "",
        certificate: str = "",
        key: str = "",
    ) -> None:
        self.json = json
        """Errors are told as JSON too."""
        self.store = store
        """From ``snap --store``, before the verb."""
        self.address = address
        self.token_file = token_file
        self.ca = ca
        self.certificate = certificate
        self.key = key
        """Of a daemon, and what it asks for: given before the verb or after it."""


def pairs(option: str, given: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` arguments of an option that may be repeated.  Raises Misuse."""
    found: dict[str, str] = {}
    for pair in given:
        key, separator, value = pair.partition("=")
        if not separator or not key:
            raise Misuse(f"{option} wants KEY=VALUE, not {pair!r}")
        if key in found:
            raise Misuse(f"{option} gives {key!r} twice")
        found[key] = value
    return found
