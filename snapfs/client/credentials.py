"""What a client shows a daemon.

The owner's secret is read anew for each call: a daemon that was started again has another.
"""

from __future__ import annotations

import os

from snapfs import errors
from snapfs.client import addresses
from snapfs.client.addresses import Target
from snapfs.rpc.failures import API_KEY, API_NUMBER


class Credentials:
    """What a client shows a daemon.

    Args:
        token: secret of a token; empty for none.
        ca: file of the certificates that a daemon's must descend from; None for the system's.
        certificate, key: files of the client's own certificate chain and key.
    """

    def __init__(
        self,
        *,
        token: str = "",
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
    ) -> None:
        if bool(certificate) != bool(key):
            raise errors.Invalid("a client's certificate and its key go together", hint="name both files")
        self.token = addresses.checked_secret(token) if token else ""
        self.ca, self.certificate, self.key = ca, certificate, key

    def check(self, target: Target) -> None:
        """Raises Invalid for what the target has no use for."""
        if not target.tls and (self.ca or self.certificate):
            raise errors.Invalid(f"{target.shown} is reached without TLS: certificates have no use there")

    def metadata(self, target: Target) -> tuple[tuple[str, str], ...]:
        """Of one call."""
        token = self.token or _owner(target)
        sent = ((API_KEY, API_NUMBER),)
        return (*sent, ("authorization", f"Bearer {token}")) if token else sent


def _owner(target: Target) -> str:
    """Empty if the store is not ours to read: who reaches the socket all the same is known by that."""
    if target.owner is None:
        return ""
    try:
        return addresses.read_secret(target.owner)
    except errors.SnapfsError:
        return ""
