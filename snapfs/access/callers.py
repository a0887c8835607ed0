"""``Access``: who a call comes from, on which way it came, and what the store remembers about callers.

Invariants:

- A secret that is given must be good: a call with a wrong one is refused, on every way.
- Without one, who reaches the unix socket is the operator ``socket`` (the socket's directory is the access control),
  and over TCP only a client certificate counts whose name is registered.
- ``STORE/control/owner`` (0600) holds a secret that is new at each start of the daemon: who can read it owns the
  store and is its admin.  It counts on the unix socket only.
"""

from __future__ import annotations

import enum
import hmac
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from snapfs import errors
from snapfs.access.audit import Audit
from snapfs.access.journal import AuditPage
from snapfs.access.tokens import Tokens, hash_of, new_secret
from snapfs.api import Caller, NewToken, Role, Token
from snapfs.store.disk import Disk
from snapfs.types import CONTROL_DIRECTORY, OWNER_NAME

OWNER: Final = Caller(name="owner", role=Role.ADMIN)
SOCKET: Final = Caller(name="socket", role=Role.OPERATOR)


class Transport(enum.Enum):
    """The way a call came."""

    UNIX = enum.auto()
    TCP = enum.auto()


class Access:
    """Tokens, the owner's secret and the audit log of one store.

    Thread-safe.  What has to do with tokens may wait for the disk: call it in a thread where that matters.

    Args:
        store: the store's directory; nothing is written to it before something is to be recorded.
        now_ns: the clock, nanoseconds since 1970.
    """

    def __init__(self, store: Path, *, disk: Disk | None = None, now_ns: Callable[[], int] = time.time_ns) -> None:
        self._disk = disk or Disk()
        self._owner_path = store / CONTROL_DIRECTORY / OWNER_NAME
        self._owner_hash = ""
        self._tokens = Tokens(store, self._disk, now_ns)
        self.audit: Final = Audit(store, now_ns=now_ns)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While callers are served: the audit log is synced in the background, and closed at the end."""
        async with self.audit.running():
            yield

    # -- who calls

    def authenticate(
        self, secret: str | None, *, transport: Transport, certificate_names: Sequence[str] = ()
    ) -> Caller:
        """Who a call comes from.  Thread-safe.

        Args:
            secret: of the metadata ``authorization: Bearer <secret>``; None without it.
            certificate_names: subject alternative names and common name of the client's certificate, which the
                transport has verified; empty without one.

        Raises:
            Unauthenticated: not known, expired or revoked.
        """
        if secret is not None:
            if transport is Transport.UNIX and self._is_owner(secret):
                return OWNER
            return _caller(self._tokens.of_secret(secret))
        if transport is Transport.UNIX:
            return SOCKET
        token = self._tokens.of_certificate(certificate_names) if certificate_names else None
        if token is not None:
            return _caller(token)
        if certificate_names:
            raise errors.Unauthenticated(
                f"the client certificate {certificate_names[0]!r} is not registered",
                hint="register it: `snap token create NAME --for-certificate`, or give a token",
            )
        raise errors.Unauthenticated(
            "a token is needed", hint="set SNAPFS_TOKEN, or send the metadata `authorization: Bearer SECRET`"
        )

    def _is_owner(self, secret: str) -> bool:
        # hashed, so that neither is told by the time that comparing takes, nor by its length
        return bool(self._owner_hash) and hmac.compare_digest(hash_of(secret), self._owner_hash)

    def new_owner_secret(self) -> str:
        """Write a fresh secret of the owner; the daemon does so when it starts.

        Raises:
            NoSpace, IOFailure.
        """
        secret = new_secret()
        directory = self._owner_path.parent
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise errors.IOFailure(f"{directory}: {error.strerror or error}") from error
        # a stray one of a crash keeps its mode when it is opened again
        self._disk.unlink("owner.unlink", self._owner_path.with_name(OWNER_NAME + ".new"))
        self._disk.write_file("owner", self._owner_path, secret.encode() + b"\n")
        self._owner_hash = hash_of(secret)
        return secret

    def remove_owner_secret(self) -> None:
        """When the daemon ends: the secret is worth nothing from now on."""
        self._owner_hash = ""
        self._disk.unlink("owner.unlink", self._owner_path)

    # -- what RPCs ask for

    def create_token(
        self, *, name: str, role: Role, volumes: Sequence[str] = (), expires_ns: int = 0, certificate: bool = False
    ) -> NewToken:
        """As ``Tokens.create``."""
        return self._tokens.create(
            name=name, role=role, volumes=volumes, expires_ns=expires_ns, certificate=certificate
        )

    def list_tokens(self) -> list[Token]:
        """As ``Tokens.all``."""
        return self._tokens.all()

    def revoke_token(self, *, name: str) -> Token:
        """As ``Tokens.revoke``."""
        return self._tokens.revoke(name=name)

    def list_audit_entries(
        self, *, from_ns: int = 0, caller: str = "", page_size: int = 0, page_token: str = ""
    ) -> AuditPage:
        """As ``Audit.page``."""
        return self.audit.page(from_ns=from_ns, caller=caller, page_size=page_size, page_token=page_token)

    # -- what callers did

    def check_audit(self) -> None:
        """As ``Audit.check``: before a mutating call."""
        self.audit.check()

    def record(self, *, caller: str, peer: str, method: str, request: str, result: str) -> None:
        """As ``Audit.write``: after a mutating call, or one that was refused."""
        self.audit.write(caller=caller, peer=peer, method=method, request=request, result=result)


def _caller(token: Token) -> Caller:
    return Caller(name=token.name, role=token.role, volumes=token.volumes)
