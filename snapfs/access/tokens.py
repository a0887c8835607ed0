"""Tokens: names for callers, with a role and, if wanted, volumes; kept in ``STORE/access/tokens.json``.

Invariants:

- A secret is 32 random bytes and is told once.  The file holds its BLAKE3 hash: with 256 bits of chance in the
  secret there is nothing to guess, so a slow hash, made for people's passwords, would only cost every call time.
- A name is used once: a revoked token stays on record, so that what the audit log names stays clear.  (Past
  ``TOKENS_MAX`` records the ones that ended first make room.)
- The file (0600, in a directory of 0700) is replaced as a whole, durably.  It is read again when it has changed on
  disk.  A damaged one is an error, and nobody is let in by token until it is mended.
- A record with ``certificate`` has no secret: its name is one of the names in a client certificate.

Thread-safe.  Everything here may wait for the disk.
"""

from __future__ import annotations

import base64
import hmac
import logging
import os
import secrets
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from blake3 import blake3

from snapfs import errors
from snapfs.api import NewToken, Role, Token
from snapfs.store.disk import Disk, read_start
from snapfs.types import NAME_BYTES_MAX
from snapfs.volume.volumes import check_label

DIRECTORY: Final = "access"
FILE: Final = "tokens.json"
PREFIX: Final = "snapfs_"
"""Of every secret, so that scanners of source code and logs find one that leaked."""

SECRET_BYTES: Final = 32
SECRET_CHARACTERS_MAX: Final = 128
"""More than any secret of ours has: the rest need not be hashed."""

TOKENS_MAX: Final = 10_000
VOLUMES_MAX: Final = 100
"""Of one token."""

RESERVED: Final = frozenset({"owner", "socket", "local"})
"""Names of callers that are no tokens."""

_FORMAT_VERSION: Final = 1
_FILE_BYTES_MAX: Final = 512 * 1024 * 1024
"""More than the most tokens with the most volumes take."""
_ID_CHARACTERS: Final = 16
"""Of the hash, by which a record is found before all of it is compared."""

_log = logging.getLogger(__name__)


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A token as the file has it."""

    name: str
    role: Role
    volumes: list[str]
    created_ns: int
    expires_ns: int = 0
    revoked_ns: int = 0
    certificate: bool = False
    hash: str = ""
    """BLAKE3 of the secret, 64 hex digits; empty for a certificate."""

    def token(self) -> Token:
        return Token(
            name=self.name,
            role=self.role,
            volumes=self.volumes,
            created_ns=self.created_ns,
            expires_ns=self.expires_ns,
            revoked_ns=self.revoked_ns,
            certificate=self.certificate,
        )

    def ended_ns(self) -> int:
        """When it ended or will; 0: never."""
        return min((time for time in (self.expires_ns, self.revoked_ns) if time), default=0)


class _Content(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Of the file, as JSON."""

    version: int
    tokens: list[_Record]


def new_secret() -> str:
    return PREFIX + base64.urlsafe_b64encode(secrets.token_bytes(SECRET_BYTES)).decode().rstrip("=")


def hash_of(secret: str) -> str:
    return blake3(secret.encode(errors="surrogatepass")).hexdigest()


class Tokens:
    """The tokens of one store.

    Args:
        store: the store's directory.
        now_ns: the clock, nanoseconds since 1970.
    """

    def __init__(self, store: Path, disk: Disk, now_ns: Callable[[], int]) -> None:
        self._path = store / DIRECTORY / FILE
        self._disk = disk
        self._now_ns = now_ns
        self._lock = threading.Lock()
        self._stamp: tuple[int, int, int] | None = None
        """(mtime, inode, size) of what was read; None: nothing, or the file was damaged."""
        self._records: dict[str, _Record] = {}
        self._by_id: dict[str, _Record] = {}
        self._by_certificate: dict[str, _Record] = {}

    # -- asking

    def all(self) -> list[Token]:
        """By time of creation.

        Raises:
            Corrupt: the file is damaged.
        """
        with self._lock:
            self._refresh()
            return [record.token() for record in self._records.values()]

    def of_secret(self, secret: str) -> Token:
        """Raises:
        Unauthenticated: unknown, expired or revoked; or tokens cannot be read.
        """
        record = None
        if secret.startswith(PREFIX) and len(secret) <= SECRET_CHARACTERS_MAX:
            digest = hash_of(secret)
            with self._lock:
                self._refresh_for_caller()
                found = self._by_id.get(digest[:_ID_CHARACTERS])
            if found is not None and hmac.compare_digest(found.hash, digest):
                record = found
        if record is None:
            raise errors.Unauthenticated("the token is not known", hint="ask for one: see `snap token create`")
        return self._valid(record, "token")

    def of_certificate(self, names: Sequence[str]) -> Token | None:
        """That of the first of a client certificate's names that is registered; None if none is.

        Raises:
            Unauthenticated: it expired or was revoked; or tokens cannot be read.
        """
        with self._lock:
            self._refresh_for_caller()
            record = next((self._by_certificate[name] for name in names if name in self._by_certificate), None)
        return None if record is None else self._valid(record, "certificate")

    def _valid(self, record: _Record, what: str) -> Token:
        if record.revoked_ns:
            raise errors.Unauthenticated(f"the {what} {record.name!r} was revoked", hint="ask for a new one")
        if record.expires_ns and record.expires_ns <= self._now_ns():
            raise errors.Unauthenticated(f"the {what} {record.name!r} has expired", hint="ask for a new one")
        return record.token()

    # -- changing

    def create(
        self, *, name: str, role: Role, volumes: Sequence[str] = (), expires_ns: int = 0, certificate: bool = False
    ) -> NewToken:
        """Make a token, or register a client certificate's name.

        Raises:
            AlreadyExists: the name is or was used.
            Invalid, NameTooLong: a bad name, expiry or combination.
            TooLarge: too many tokens, or volumes.
            Corrupt, NoSpace, IOFailure: the file.
        """
        now = self._now_ns()
        _check_name(name, certificate=certificate)
        for volume in volumes:
            check_label(volume, "volume")
        if volumes and role is Role.ADMIN:
            raise errors.Invalid(
                "an admin's token cannot be narrowed to volumes", hint="leave the volumes out, or make it an operator's"
            )
        if len(set(volumes)) > VOLUMES_MAX:
            raise errors.TooLarge(f"a token names at most {VOLUMES_MAX} volumes", hint="make several tokens")
        if expires_ns and expires_ns <= now:
            raise errors.Invalid("the token would have expired already", hint="give a time to come")
        secret = "" if certificate else new_secret()
        record = _Record(
            name=name,
            role=role,
            volumes=sorted(set(volumes)),
            created_ns=now,
            expires_ns=expires_ns,
            certificate=certificate,
            hash=hash_of(secret) if secret else "",
        )
        with self._lock:
            self._refresh()
            if name in self._records:
                raise errors.AlreadyExists(f"there is or was a token {name!r}", hint="choose another name")
            self._write([*self._with_room(now), record])
        return NewToken(token=record.token(), secret=secret)

    def _with_room(self, now: int) -> list[_Record]:
        """The records, without the one that ended first if there are too many."""
        records = [*self._records.values()]
        if len(records) >= TOKENS_MAX:
            ended = [record for record in records if 0 < record.ended_ns() <= now]
            if not ended:
                raise errors.TooLarge(f"there are {TOKENS_MAX} tokens in force", hint="revoke some")
            records.remove(min(ended, key=_Record.ended_ns))
        return records

    def revoke(self, *, name: str) -> Token:
        """Refuse the token from now on.  One that was revoked stays as it was.

        Raises:
            NotFound: no such token.
            Corrupt, NoSpace, IOFailure: the file.
        """
        with self._lock:
            self._refresh()
            record = self._records.get(name)
            if record is None:
                raise errors.NotFound(f"no token {name!r}", hint="see `snap token list`")
            if not record.revoked_ns:
                record = msgspec.structs.replace(record, revoked_ns=self._now_ns())
                self._write([record if known.name == name else known for known in self._records.values()])
        return record.token()

    # -- the file

    def _refresh_for_caller(self) -> None:
        """``_refresh``; a stranger is not told where the store is."""
        try:
            self._refresh()
        except errors.SnapfsError as error:
            _log.error("%s", error.message)
            raise errors.Unauthenticated("tokens cannot be checked now", hint="the daemon's log tells why") from error

    def _refresh(self) -> None:
        """Read the file if it is not what was read last."""
        try:
            found = self._path.stat()
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
            if stamp == self._stamp:
                return
            if found.st_size > _FILE_BYTES_MAX:
                raise errors.Corrupt(f"{self._path}: {found.st_size} bytes are too many", hint="put a good copy back")
            data = read_start(self._path, _FILE_BYTES_MAX)
        except FileNotFoundError:
            self._take([], None)
            return
        except OSError as error:
            raise errors.IOFailure(f"{self._path}: {error.strerror or error}") from error
        try:
            content = msgspec.json.decode(data, type=_Content)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            self._take([], None)
            raise errors.Corrupt(
                f"{self._path}: damaged ({error})", hint="put a good copy back, or remove it and make all tokens anew"
            ) from error
        if content.version != _FORMAT_VERSION:
            self._take([], None)
            raise errors.Unsupported(f"{self._path}: format {content.version}, this snapfs knows {_FORMAT_VERSION}")
        self._take(content.tokens, stamp)

    def _take(self, records: list[_Record], stamp: tuple[int, int, int] | None) -> None:
        self._stamp = stamp
        self._records = {record.name: record for record in records}
        self._by_id = {record.hash[:_ID_CHARACTERS]: record for record in records if record.hash}
        self._by_certificate = {record.name: record for record in records if record.certificate}

    def _write(self, records: list[_Record]) -> None:
        directory = self._path.parent
        try:
            directory.mkdir(mode=0o700, exist_ok=True)
            directory.chmod(0o700)
        except OSError as error:
            raise errors.IOFailure(f"{directory}: {error.strerror or error}") from error
        content = _Content(version=_FORMAT_VERSION, tokens=records)
        # a stray one of a crash keeps its mode when it is opened again
        self._disk.unlink("tokens.unlink", self._path.with_name(FILE + ".new"))
        self._disk.write_file("tokens", self._path, msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        self._disk.sync_directory("tokens.sync", directory.parent)
        self._refresh()


def _check_name(name: str, *, certificate: bool) -> None:
    if name in RESERVED:
        raise errors.Invalid(f"{name!r} is the name of a caller on the machine", hint="choose another name")
    if not certificate:
        check_label(name, "token")
        return
    # names in certificates may be addresses (a@b) and URIs (spiffe://a/b): printable is enough
    if not name or not name.isprintable() or name.startswith("-"):
        raise errors.Invalid(f"{name!a} cannot be the name of a certificate")
    if len(os.fsencode(name)) > NAME_BYTES_MAX:
        raise errors.NameTooLong(f"a certificate's name has at most {NAME_BYTES_MAX} bytes here")
