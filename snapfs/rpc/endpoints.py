"""Where a daemon listens: unix sockets and TCP ports, made safe before anybody can connect.

Invariants:

- A unix socket (0600) lives in a directory (0700) of its own: who can reach it is an operator.  With a group, that
  group can: directory 0750, socket 0660.  The directory is the daemon's user's, and no symbolic link: nobody else can
  open it again, or put another in its place.
- TCP without TLS only where it was asked for and only on the loopback, whatever a name stands for.
- TLS of version 1.2 or newer; with ``client_ca`` a client must show a certificate of that authority.  Certificates
  that were replaced on disk are used from the next connection on.
"""

from __future__ import annotations

import grp
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import msgspec

from snapfs.config import is_loopback
from snapfs.errors import Busy, Invalid, IOFailure, NotPermitted, Unavailable
from snapfs.rpc.library import grpc
from snapfs.types import OWNER_NAME, SOCKET_NAME

_OWN_FILES: Final = {SOCKET_NAME, OWNER_NAME, OWNER_NAME + ".new"}
"""What a directory of a daemon's socket may hold (``owner``: see snapfs.access)."""

_PROBE_SECONDS_MAX: Final = 1.0

_log = logging.getLogger(__name__)


class UnixEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """``directory/socket``."""

    directory: Path
    group: str = ""
    """May connect, too."""


class TcpEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A TCP port."""

    address: str
    """``host:port``, ``[::1]:port``; port 0: any that is free."""
    certificate: Path | None = None
    """PEM, with its chain."""
    key: Path | None = None
    client_ca: Path | None = None
    """Clients must show a certificate of this authority; PEM."""
    plaintext: bool = False
    """No TLS; only on the loopback."""


# -- unix sockets


@contextmanager
def bound(server: grpc.Server, endpoint: UnixEndpoint) -> Iterator[str]:
    """The server listens on the socket, whose path is given; afterwards the socket is gone.

    Raises:
        Invalid: the directory or what is in it cannot be the daemon's; no such group.
        Busy: another daemon listens there.
        NotPermitted, IOFailure, Unavailable: the host refuses.
    """
    path = endpoint.directory / SOCKET_NAME
    try:
        directory = _own_directory(endpoint.directory)
    except OSError as error:
        raise _refused(endpoint.directory, error) from error
    try:
        # by its descriptor, at which grpc may look again when it closes: a path may be too long for a socket's address
        name = f"/proc/self/fd/{directory}/{SOCKET_NAME}"
        _clear(directory, path)
        try:
            server.add_insecure_port(f"unix:{name}")
        except RuntimeError:
            raise Unavailable(f"cannot listen at {path}") from None
        try:
            _admit(directory, endpoint)
            yield str(path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(SOCKET_NAME, dir_fd=directory)
    finally:
        os.close(directory)


def _own_directory(path: Path) -> int:
    """Its descriptor; made if missing, closed to others."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if os.fstat(directory).st_uid != os.geteuid():
            raise Invalid(
                f"{path} cannot be the directory of the daemon's socket: it belongs to another user",
                hint="name a directory that is the daemon's own",
            )
        others = {entry.name for entry in Path(f"/proc/self/fd/{directory}").iterdir()} - _OWN_FILES
        if others:
            # closing a directory that others use, /tmp say, to all but us would do harm
            raise Invalid(
                f"{path} cannot be the directory of the daemon's socket: it holds {min(others)!r}",
                hint="name a directory that is the daemon's own",
            )
        os.fchmod(directory, 0o700)
    except BaseException:
        os.close(directory)
        raise
    return directory


def _clear(directory: int, path: Path) -> None:
    """Remove a dead daemon's socket."""
    try:
        mode = os.lstat(SOCKET_NAME, dir_fd=directory).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Invalid(f"{path} is in the way: not a socket", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_PROBE_SECONDS_MAX)
        try:
            probe.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        except (ConnectionRefusedError, FileNotFoundError):
            pass
        except (TimeoutError, BlockingIOError):
            raise Busy(f"another daemon listens at {path}, and does not answer") from None
        else:
            raise Busy(f"another daemon listens at {path}", hint="give each daemon a directory of its own")
    os.unlink(SOCKET_NAME, dir_fd=directory)


def _admit(directory: int, endpoint: UnixEndpoint) -> None:
    """Set who may connect; nobody else could until now."""
    socket_path = Path(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    try:
        socket_path.chmod(0o600)
        if endpoint.group:
            gid = _gid(endpoint.group)
            os.chown(socket_path, -1, gid)
            socket_path.chmod(0o660)
            os.fchown(directory, -1, gid)
            os.fchmod(directory, 0o750)
    except PermissionError:
        raise NotPermitted(
            f"the socket in {endpoint.directory} cannot be given to the group {endpoint.group!r}",
            hint="the daemon's user must be a member of it",
        ) from None
    except OSError as error:
        raise _refused(endpoint.directory, error) from error


def _gid(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise Invalid(f"there is no group {group!r}") from None


def _refused(path: Path, error: OSError) -> NotPermitted | IOFailure | Invalid:
    if isinstance(error, PermissionError):
        return NotPermitted(f"no permission to use {path} for the daemon's socket")
    if isinstance(error, NotADirectoryError | FileExistsError):
        return Invalid(f"{path} is not a directory", hint="a symbolic link to one will not do")
    return IOFailure(f"{path}: {error.strerror or error}")


# -- TCP


def listen(server: grpc.Server, endpoint: TcpEndpoint) -> str:
    """The server listens at the address, which is returned with its port.

    Raises:
        Invalid: no address; no TLS where there must be; certificates that are none.
        Unavailable: the address cannot be had.
    """
    host, port = _parted(endpoint.address)
    if bool(endpoint.certificate) != bool(endpoint.key):
        raise Invalid("a certificate and its key go together", hint="name both files, or none for plain TCP")
    if endpoint.certificate is None and not endpoint.plaintext:
        raise Invalid(
            f"no certificate to listen with at {endpoint.address}",
            hint="name a certificate and a key; plain TCP must be asked for, and is for the loopback only",
        )
    if endpoint.certificate is not None and endpoint.plaintext:
        raise Invalid(f"either TLS or plain TCP at {endpoint.address}, not both")
    if endpoint.plaintext and not (is_loopback(host) and _stands_for_loopback(host)):
        raise Invalid(
            f"plain TCP at {endpoint.address} would let everybody read along",
            hint="use a certificate and a key, or an address of the loopback, e.g. 127.0.0.1",
        )
    if endpoint.client_ca is not None and endpoint.certificate is None:
        raise Invalid("client certificates need TLS", hint="name a certificate and a key")
    try:
        if endpoint.plaintext:
            taken = server.add_insecure_port(f"{_bracketed(host)}:{port}")
        else:
            taken = server.add_secure_port(f"{_bracketed(host)}:{port}", _Certificates(endpoint).credentials())
    except RuntimeError:
        taken = 0
    if not taken:
        raise Unavailable(f"cannot listen at {endpoint.address}", hint="is another program listening there?")
    return f"{_bracketed(host)}:{taken}"


def _stands_for_loopback(host: str) -> bool:
    """``localhost`` is what the host's tables say."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        return False
    return all(is_loopback(str(address[0])) for *_, address in found)


def _parted(address: str) -> tuple[str, int]:
    host, separator, port = address.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        separator = ""
    if not separator or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise Invalid(f"{address!r} is no address to listen at", hint="as in 127.0.0.1:7070 or [::]:7070")
    return host, int(port)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Certificates:
    """A server's certificate, read again when it was replaced.

    Raises:
        Invalid: a file that cannot be read or is not what it should be.
    """

    def __init__(self, endpoint: TcpEndpoint) -> None:
        assert endpoint.certificate is not None
        assert endpoint.key is not None
        self._certificate, self._key, self._client_ca = endpoint.certificate, endpoint.key, endpoint.client_ca
        self._stamp = self._stamp_now()
        self._first = self._read()

    def credentials(self) -> grpc.ServerCredentials:
        return grpc.dynamic_ssl_server_credentials(
            self._first,
            self._fetch,  # type: ignore[arg-type] # None is allowed: "as before"
            require_client_authentication=self._client_ca is not None,
        )

    def _stamp_now(self) -> tuple[tuple[int, int, int], ...]:
        found = []
        for path in (self._certificate, self._key, self._client_ca):
            if path is not None:
                with _readable(path):
                    status = path.stat()
                found.append((status.st_mtime_ns, status.st_ino, status.st_size))
        return tuple(found)

    def _read(self) -> grpc.ServerCertificateConfiguration:
        _check_pair(self._certificate, self._key)
        root = None
        if self._client_ca is not None:
            _check_authority(self._client_ca)
            with _readable(self._client_ca):
                root = self._client_ca.read_bytes()
        with _readable(self._key):
            key = self._key.read_bytes()
        with _readable(self._certificate):
            chain = self._certificate.read_bytes()
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=root)

    def _fetch(self) -> grpc.ServerCertificateConfiguration | None:
        """For the next handshake; None: as before.  On a thread of grpc's."""
        try:
            stamp = self._stamp_now()
            if stamp == self._stamp:
                return None
            self._stamp = stamp  # also if it cannot be used: it is complained of once
            fresh = self._read()
        except Invalid as error:
            _log.error("the former certificate stays in use: %s", error.message)
            return None
        _log.info("a new certificate is in use: %s", self._certificate)
        return fresh


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Invalid(f"the file {path} cannot be read: {error.strerror or error}") from None


def _no_password() -> str:
    raise ValueError("it is encrypted")


def _check_pair(certificate: Path, key: Path) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise Invalid(f"{certificate} and {key} are no certificate and its key: {error.reason or error}") from None
    except (OSError, ValueError) as error:
        raise Invalid(f"{certificate} and {key} cannot be used: {error}") from None


def _check_authority(path: Path) -> None:
    import ssl

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError as error:
        raise Invalid(f"{path} holds no certificate of an authority: {error.reason or error}") from None
    except OSError as error:
        raise Invalid(f"{path} cannot be read: {error.strerror or error}") from None
