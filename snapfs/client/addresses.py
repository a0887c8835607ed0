"""What the address of a daemon means, as a user writes it.

| address | way |
|---|---|
| ``unix:/path/to/socket`` | a unix socket |
| ``host:port`` | TCP with TLS; the daemon's certificate is checked |
| ``insecure:127.0.0.1:port`` | TCP without TLS, to this machine only |
| a store's directory | the unix socket of the store's daemon, as the store's owner |

Imports nothing heavy: what looks at an address need not speak to it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from snapfs import errors
from snapfs.types import CONTROL_DIRECTORY, OWNER_NAME, SOCKET_NAME

SECRET_BYTES_MAX: Final = 4096
SOCKET_PATH_BYTES_MAX: Final = 107
"""Longest path of a unix socket: ``sun_path`` is 108 bytes with its final zero."""
PROBE_SECONDS_MAX: Final = 5.0
"""For the kernel to queue a connection: a daemon with a full queue is stopped or overloaded."""

_UNIX: Final = "unix:"
_INSECURE: Final = "insecure:"
_HOST_PORT: Final = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_LOOPBACK: Final = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]")
_PLAIN_PATH: Final = re.compile(rb"/[A-Za-z0-9._/-]+")


class Target(NamedTuple):
    """Where a daemon listens."""

    shown: str
    """For messages."""
    socket: Path | None = None
    """Of a unix socket; else TCP."""
    host_port: str = ""
    tls: bool = False
    owner: Path | None = None
    """File of the owner's secret, for the address of a store."""


def parse(address: str | os.PathLike[str]) -> Target:
    """The target of an address.

    Raises:
        Invalid: it is none, or asks for TCP without TLS to another machine.
    """
    if isinstance(address, str):
        if address.startswith(_UNIX):
            path = address.removeprefix(_UNIX)
            # unix:///path is how gRPC writes it
            path = path.removeprefix("//") if path.startswith("///") else path
            if not path or "\0" in path:
                raise _invalid(address)
            return Target(shown=f"{_UNIX}{path}", socket=Path(path).absolute())
        if address.startswith(_INSECURE):
            return _insecure(address)
        if "://" in address:
            raise _invalid(address)
        if _HOST_PORT.fullmatch(address) or not address or ("/" not in address and not Path(address).is_dir()):
            return _host_port(address)
    store = Path(address).absolute()
    return Target(
        shown=f"the store {store}",
        socket=store / CONTROL_DIRECTORY / SOCKET_NAME,
        owner=store / CONTROL_DIRECTORY / OWNER_NAME,
    )


def _insecure(address: str) -> Target:
    host, port = _split(address.removeprefix(_INSECURE), address)
    if not _LOOPBACK.fullmatch(host):
        raise errors.Invalid(
            f"{address!r}: without TLS only this machine can be reached",
            hint="leave `insecure:` away, or use 127.0.0.1",
        )
    return Target(shown=address, host_port=f"{host}:{port}")


def _host_port(address: str) -> Target:
    host, port = _split(address, address)
    return Target(shown=address, host_port=f"{host}:{port}", tls=True)


def _split(text: str, address: str) -> tuple[str, int]:
    found = _HOST_PORT.fullmatch(text)
    if not found or not 0 < int(found.group(2)) < 65536:
        raise _invalid(address)
    return found.group(1), int(found.group(2))


def _invalid(address: str) -> errors.Invalid:
    return errors.Invalid(
        f"not the address of a daemon: {address!r}",
        hint="write HOST:PORT, unix:/path/to/socket, insecure:127.0.0.1:PORT or a store's directory",
    )


def read_secret(path: Path) -> str:
    """A token's secret from a file; surrounding white space is none of it.

    Raises:
        NotFound, NotPermitted, Invalid: no such file, not ours to read, or no text of a secret.
    """
    try:
        with path.open("rb") as file:
            data = file.read(SECRET_BYTES_MAX + 1)
        secret = data.decode("ascii").strip()
    except FileNotFoundError:
        raise errors.NotFound(f"there is no file {path} with a token") from None
    except PermissionError:
        raise errors.NotPermitted(f"no permission to read the token in {path}") from None
    except OSError as error:
        raise errors.Invalid(f"cannot read the token in {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise errors.Invalid(f"{path} holds no token") from None
    if not secret or len(data) > SECRET_BYTES_MAX:
        raise errors.Invalid(f"{path} holds no token")
    return checked_secret(secret)


def checked_secret(secret: str) -> str:
    """Raises Invalid for what cannot travel in a header."""
    if not secret.isascii() or not secret.isprintable() or " " in secret:
        raise errors.Invalid("the token is not one: it has characters that no token has")
    return secret


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """A path to the same socket that fits ``sun_path``, usable while inside."""
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def plain(path: Path) -> bool:
    """Whether gRPC's own spelling of unix sockets can name it: short, and nothing that a URL would escape."""
    raw = os.fsencode(path)
    return len(raw) <= SOCKET_PATH_BYTES_MAX and _PLAIN_PATH.fullmatch(raw) is not None


def dial(path: Path) -> socket.socket | None:
    """A connection to the unix socket; None if nobody accepts any there (a socket that nobody serves any more does not
    count).

    Raises:
        NotPermitted: it is another user's.
        Unavailable: its queue of new clients stays full.
    """
    connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connected.settimeout(PROBE_SECONDS_MAX)
        with short_path(path) as name:
            connected.connect(name)
    except BaseException as error:
        connected.close()
        if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            return None
        if isinstance(error, PermissionError):
            raise errors.NotPermitted(f"no permission to use the daemon's socket {path}") from None
        if isinstance(error, TimeoutError | BlockingIOError):
            told = f"the daemon at {path} does not answer"
            raise errors.Unavailable(told, hint="is it stopped or overloaded?") from None
        if isinstance(error, OSError):
            told = f"cannot reach the daemon at {path}: {error.strerror or error}"
            raise errors.Unavailable(told) from None
        raise
    return connected


def listens(path: Path) -> bool:
    """Whether somebody accepts connections at the unix socket.  Raises as ``dial``."""
    connected = dial(path)
    if connected is None:
        return False
    connected.close()
    return True
