"""Which store and which volume a command means, and the way to it.

The store: ``--store`` or ``--address``; else the snapfs mount around the current directory; else SNAPFS_ADDRESS or
SNAPFS_STORE; else git's ``snapfs.address`` or ``snapfs.store`` of the repository around it.  A path that is a mount
point stands for the store mounted there.

The volume: the argument; else the first directory below the mount point; else git's ``snapfs.volume``; else
the store's only one.

The way: to an address on the network, gRPC; to a socket, the same without gRPC's library (``snapfs.client.local``);
to a store, its daemon's socket if one listens there, else the store opened in this process.
A store that is locked without a daemon that listens (one that starts, ends, or another command) is retried
for a moment.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from snapfs import errors, mounts
from snapfs.client import addresses

from .addresses import Address, path_in_volume, without_snap_directory

if TYPE_CHECKING:
    from snapfs.client import Client
    from snapfs.client.local import LocalTransport
    from snapfs.client.transport import Transport
    from snapfs.git.repository import Binding, Repository

    from .invocation import Invocation
    from .terse import Terse

STORE_VARIABLE: Final = "SNAPFS_STORE"
ADDRESS_VARIABLE: Final = "SNAPFS_ADDRESS"
TOKEN_VARIABLE: Final = "SNAPFS_TOKEN"
TOKEN_FILE_VARIABLE: Final = "SNAPFS_TOKEN_FILE"
CA_VARIABLE: Final = "SNAPFS_CA"
CERTIFICATE_VARIABLE: Final = "SNAPFS_CERTIFICATE"
KEY_VARIABLE: Final = "SNAPFS_KEY"

BUSY_SECONDS_MAX: Final = 2.0
BUSY_RETRY_SECONDS: Final = 0.05

CLOSE_SECONDS_MAX: Final = 5.0
"""For closing after a deadline has passed."""


def current_directory() -> Path | None:
    """None when it was deleted."""
    try:
        return Path(os.getcwd())  # noqa: PTH109  (Path.cwd() is the same; the name says what may fail)
    except FileNotFoundError:
        return None


class Shown(NamedTuple):
    """What a daemon is shown, as given; empty: what the environment says."""

    token_file: str = ""
    ca: str = ""
    certificate: str = ""
    key: str = ""

    def token(self) -> str:
        """Secret of a token; empty without one.

        Raises:
            SnapfsError: the file is missing or holds none.
        """
        if not self.token_file and os.environ.get(TOKEN_VARIABLE):
            return addresses.checked_secret(os.environ[TOKEN_VARIABLE].strip())
        path = self.token_file or os.environ.get(TOKEN_FILE_VARIABLE, "")
        return addresses.read_secret(Path(path)) if path else ""

    def complete(self) -> Shown:
        """With what the environment says of files."""
        certificate, key = self.certificate, self.key
        if not certificate and not key:
            certificate, key = os.environ.get(CERTIFICATE_VARIABLE, ""), os.environ.get(KEY_VARIABLE, "")
        return self._replace(ca=self.ca or os.environ.get(CA_VARIABLE, ""), certificate=certificate, key=key)


ENVIRONMENT: Final = Shown()
"""Nothing was given."""


class Place:
    """What the current directory, the options and the environment say.

    Args:
        store, address: from the options; empty: not given.

    Attributes:
        address: of a daemon; empty for a store on this machine.
    """

    def __init__(self, store: str, address: str = "") -> None:
        if store and address:
            raise errors.Invalid("--store and --address exclude each other")
        self._directory = current_directory()
        self._repository: Repository | None = None
        self._looked_for_repository = False
        self._mount = _around(self._directory) if self._directory else None
        self._store, self.address = self._find(store, address)
        if self._mount is not None and self._store is not None and _same(self._mount.store, self._store):
            self._volume, self._inside = self._below(self._mount)
        else:
            self._volume, self._inside, self._mount = "", "", None

    @property
    def local(self) -> Path | None:
        """The store's directory; None behind an address."""
        return self._store

    @property
    def store(self) -> Path:
        """The store's directory.

        Raises:
            Invalid: it is behind an address.
        """
        if self._store is None:
            raise errors.Invalid("this needs the store itself, not an address", hint="name it with --store")
        return self._store

    def _below(self, mount: mounts.Mount) -> tuple[str, str]:
        assert self._directory is not None
        volume, *rest = (*self._directory.relative_to(mount.mountpoint).parts, "")
        return volume, without_snap_directory("/".join(part for part in rest if part))

    def _find(self, store: str, address: str) -> tuple[Path | None, str]:
        if address:
            return None, address
        if store:
            return self._behind(Path(store)), ""
        if self._mount is not None:
            return self._mount.store, ""
        if os.environ.get(ADDRESS_VARIABLE):
            return None, os.environ[ADDRESS_VARIABLE]
        if os.environ.get(STORE_VARIABLE):
            return self._behind(Path(os.environ[STORE_VARIABLE])), ""
        binding = self.binding
        if binding.address:
            return None, binding.address
        if binding.store:
            return Path(binding.store), ""
        raise errors.Invalid(
            "which store?", hint=f"name it with --store, --address or {STORE_VARIABLE}, or go into its mount"
        )

    def _behind(self, path: Path) -> Path:
        absolute = path.absolute()
        mount = mounts.at(absolute)
        return mount.store if mount is not None and mount.type == mounts.TYPE else absolute

    @property
    def repository(self) -> Repository | None:
        """The git repository around the current directory."""
        if not self._looked_for_repository:
            self._looked_for_repository = True
            from snapfs.git.repository import Repository

            try:
                if self._directory is not None:
                    self._repository = Repository(self._directory, os.environ)
            except errors.SnapfsError:
                self._repository = None
        return self._repository

    @property
    def binding(self) -> Binding:
        """What git binds to the repository around the current directory."""
        if self.repository is not None:
            return self.repository.binding
        from snapfs.git.repository import Binding

        return Binding()

    def shown(self, given: Shown) -> Shown:
        """What is given; else, for the daemon that git names, what git says of it."""
        if not self.address:
            return given
        binding = self.binding
        if not binding.address or binding.address != self.address:
            return given
        return Shown(
            token_file=given.token_file or ("" if os.environ.get(TOKEN_VARIABLE) else binding.token_file),
            ca=given.ca or binding.ca,
            certificate=given.certificate or binding.certificate,
            key=given.key or binding.key,
        )

    def implied_volume(self) -> str:
        """The volume that the current directory or git tells; else empty."""
        if self._volume:
            return self._volume
        binding = self.binding
        if self._store is None:
            return binding.volume if binding.address in ("", self.address) and not binding.store else ""
        bound = not binding.address and (not binding.store or _same(Path(binding.store), self._store))
        return binding.volume if bound else ""

    def volume(self, calls: Client | Terse, given: str = "") -> str:
        """The volume's name.

        Raises:
            Invalid: it cannot be told.
        """
        known = given or self.implied_volume()
        if known:
            return known
        names = [volume.name for volume in calls.list_volumes()]
        if len(names) == 1:
            return names[0]
        if not names:
            raise errors.NotFound("the store has no volume", hint="snap volume create NAME")
        raise errors.Invalid(f"which volume? the store has {len(names)}", hint=f"name one: {_few(names)}")

    def snapshot(self, calls: Client | Terse, address: Address) -> Address:
        """The address with its volume filled in."""
        return Address(self.volume(calls, address.volume), address.snapshot)

    def path(self, text: str, volume: str) -> str:
        """A path inside ``volume``, relative to the current directory where that is inside it."""
        root = str(self._mount.mountpoint / volume) if self._mount is not None else ""
        inside = self._inside if volume == self._volume else ""
        return path_in_volume(text, inside=inside, mounted_root=root)


def _around(directory: Path) -> mounts.Mount | None:
    mount = mounts.containing(directory)
    return mount if mount is not None and mount.type == mounts.TYPE else None


def _same(one: Path, other: Path) -> bool:
    try:
        return one == other or one.samefile(other)
    except OSError:
        return False


def _few(names: list[str], count_max: int = 5) -> str:
    return ", ".join(names[:count_max]) + (", ..." if len(names) > count_max else "")


@contextmanager
def connected(
    store: Path | None,
    *,
    address: str = "",
    shown: Shown = ENVIRONMENT,
    deadline: float | None = None,
    waits: bool = False,
) -> Iterator[Client]:
    """A client of the store, through its daemon or in this process; or of the daemon at an address.

    Args:
        store: the store's directory; not looked at with an ``address``.
        address: of a daemon.
        shown: what a daemon is shown.
        deadline: ``time.monotonic()`` after which every wait fails with Unavailable.
        waits: for what others do: of no use in this process, where nobody else can do anything.

    Raises:
        SnapfsError: the store is missing, foreign, in use or damaged; no daemon, with ``waits``;
            files that are shown cannot be read.
    """
    with _reached(store, address, shown, deadline, waits=waits) as transport:
        from snapfs.client.blocking.client import Client

        with Client(transport, deadline=deadline) as calls:
            yield calls


@contextmanager
def _reached(
    store: Path | None, address: str, shown: Shown, deadline: float | None, *, waits: bool
) -> Iterator[Transport]:
    """The way of ``connected``."""
    if address:
        with closing(_at(address, shown)) as transport:
            yield transport
        return
    if store is None:
        raise errors.Invalid("neither a store nor an address")
    patience = time.monotonic() + BUSY_SECONDS_MAX
    while True:
        daemon = _local(addresses.parse(store), Shown(token_file=shown.token_file))
        if daemon.reach():
            with closing(daemon):
                yield daemon
            return
        if waits:
            raise errors.Unavailable(
                f"no daemon serves the store {store}: nothing will happen", hint="mount it, or ask --until-now"
            )
        from .inprocess import InProcess  # trio and the store: only without a daemon

        try:
            opened = InProcess(store, token=shown.token(), deadline=deadline)
        except errors.Busy:
            if time.monotonic() >= patience:
                raise
            time.sleep(BUSY_RETRY_SECONDS)
            continue
        break
    try:
        yield opened.transport
    except BaseException:
        with suppress(errors.SnapfsError):  # the first error tells more
            opened.finish(CLOSE_SECONDS_MAX if deadline is not None else None)
        raise
    opened.finish(None if deadline is None else max(CLOSE_SECONDS_MAX, deadline - time.monotonic()))


def _at(address: str, shown: Shown) -> Transport:
    """To the daemon at an address."""
    target = addresses.parse(address)
    if target.socket is not None:
        return _local(target, shown)
    from snapfs.client.channel import GrpcTransport
    from snapfs.client.credentials import Credentials

    files = shown.complete() if target.tls else shown
    shows = Credentials(token=shown.token(), ca=files.ca, certificate=files.certificate, key=files.key)
    return GrpcTransport(target, shows)


def _local(target: addresses.Target, shown: Shown) -> LocalTransport:
    from snapfs.client.credentials import Credentials
    from snapfs.client.local import LocalTransport

    shows = Credentials(token=shown.token(), ca=shown.ca, certificate=shown.certificate, key=shown.key)
    return LocalTransport(target, shows)


@contextmanager
def opened(store: str, given: Invocation | None = None, *, waits: bool = False) -> Iterator[tuple[Place, Client]]:
    """The place and the client of one command; ``given`` as in ``here``."""
    place, shown = here(store, given)
    with connected(place.local, address=place.address, shown=shown, waits=waits) as calls:
        yield place, calls


@contextmanager
def opened_terse(store: str, given: Invocation | None = None) -> Iterator[tuple[Place, Terse]]:
    """As ``opened``, with the few calls of ``terse``."""
    place, shown = here(store, given)
    with _reached(place.local, place.address, shown, None, waits=False) as transport:
        from .terse import Terse  # while the daemon answers the connection

        calls = Terse(transport)
        try:
            yield place, calls
        finally:
            calls.close()


def here(store: str, given: Invocation | None = None) -> tuple[Place, Shown]:
    """The place of one command, and what a daemon is shown; without ``given`` the options are click's."""
    if given is None:
        from .options import invocation

        given = invocation()
    place = Place(store, given.address)
    shown = Shown(token_file=given.token_file, ca=given.ca, certificate=given.certificate, key=given.key)
    return place, place.shown(shown)
