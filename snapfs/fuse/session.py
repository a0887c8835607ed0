"""One mount, from mount(2) to its end.

Invariants:
  * pyfuse3 has one session a process: so has this module.
  * Errors of mounting become one clear line: what libfuse writes to standard error is caught and quoted.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyfuse3
import trio

from snapfs import mounts
from snapfs.errors import NotFound, NotPermitted, SnapfsError, Unavailable
from snapfs.fuse.handles import Handles
from snapfs.fuse.kernel import MountKernel
from snapfs.fuse.latency import Awake
from snapfs.fuse.loop import Polling
from snapfs.fuse.nodes import Nodes
from snapfs.fuse.operations import Requests
from snapfs.fuse.prune import FUSE_DEVICE
from snapfs.volume.lake import Lake

log = logging.getLogger(__name__)

READ_AHEAD_KIB: Final = 2048
"""Reads then come in 1 MiB instead of 128 KiB, and enough of them at a time that both the disk and we are busy."""
_TASKS_MIN: Final = 8
"""Idle request tasks kept: with fewer, tasks come and go all the time."""
_TASKS_MAX: Final = 99
_GIVEN_UP: Final = (os.strerror(errno.ENOENT),)
"""How pyfuse3 logs that the kernel does not know the request any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a user may choose of a mount."""

    allow_other: bool = False
    """Users other than the one who mounts may use it; the files' permissions hold for all."""
    xattrs: bool = False
    """Extended attributes; with them the kernel asks for one with every small write."""
    polling: bool = True
    """Requests are awaited in poll(2) first; see ``loop``."""
    awake: bool = True
    """Cores are kept awake while requests come so; see ``latency``."""


class _Option(str):
    """A mount option that may hold any bytes: pyfuse3 would encode it as ASCII."""

    __slots__ = ()

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return os.fsencode(str(self))


def _mount_options(store: Path, options: Options) -> set[str]:
    source = str(store).replace("\\", "\\\\").replace(",", "\\,")
    chosen = {"default_permissions", "nosuid", "nodev", "subtype=snapfs", _Option(f"fsname={source}")}
    if options.allow_other:
        chosen.add("allow_other")
    return chosen


def _somebody_waits(record: logging.LogRecord) -> bool:
    """False of an answer to a request that was given up, by a signal or by unmounting: nobody missed it."""
    return not (str(record.msg).endswith("fuse_reply_* failed with %s") and record.args == _GIVEN_UP)


class Session:
    """Mount of a lake."""

    def __init__(self, lake: Lake, mountpoint: Path, options: Options) -> None:
        logging.getLogger("pyfuse3").addFilter(_somebody_waits)
        nodes = Nodes()
        handles = Handles()
        self._mountpoint = mountpoint
        self._store = lake.path
        self._options = options
        self._device = ""
        self.ended = trio.Event()
        """The mount has ended."""
        self.kernel = MountKernel(lake.files, nodes, handles, mountpoint)
        self.polling: Final = Polling(enabled=options.polling, awake=Awake(enabled=options.awake))
        """How requests are awaited."""
        self._requests = Requests(lake, nodes, handles, self.kernel, xattrs=options.xattrs)
        self.timings: Final = self._requests.timings
        """Of requests."""
        self.files_open: Final = handles.files_open

    def mount(self) -> None:
        """mount(2).

        Raises:
            Unavailable: no /dev/fuse, or libfuse cannot mount.
            NotPermitted: not allowed to.
        """
        check_device()
        self.kernel.pusher.start()  # before /dev/fuse is open
        said: list[str] = []
        try:
            with _standard_error(said):
                pyfuse3.init(self._requests, str(self._mountpoint), _mount_options(self._store, self._options))
        except RuntimeError as error:
            self.kernel.pusher.stop()
            reason = said[-1] if said else str(error)
            raise Unavailable(f"cannot mount on {self._mountpoint}: {reason}") from None
        for line in said:
            log.warning("libfuse: %s", line)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Answer requests until the mount ends; started when it can be used."""
        try:
            with self.polling.installed():
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._announce, task_status)
                    await _answer()
                    nursery.cancel_scope.cancel()
        finally:
            self.kernel.device = 0
            self.ended.set()

    async def _announce(self, task_status: trio.TaskStatus[None]) -> None:
        await self._requests.ready.wait()
        mount = mounts.at(self._mountpoint)
        if mount is None or mount.type != mounts.TYPE:
            raise NotFound(f"the mount at {self._mountpoint} has gone again")
        major, minor = map(int, mount.device.split(":"))
        self._device = mount.device
        self.kernel.device = os.makedev(major, minor)
        self.kernel.pruner.begin()
        _raise_read_ahead(mount.device)
        task_status.started()

    async def unmount(self, seconds_max: float) -> None:
        """Unmount; if it is in use, hand over what was written and detach it: its users then get errors.

        Args:
            seconds_max: after so long the connection to the kernel is ended, whatever it waits for; what programs had
                written and the kernel had not handed over is lost.
        """
        mount = mounts.at(self._mountpoint)
        if mount is None or mount.device != self._device:  # unmounted by somebody: in use still, or just ending
            with trio.move_on_after(seconds_max):
                await self.ended.wait()
            pyfuse3.terminate()
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._abort_after, seconds_max, mount)
            try:
                await trio.to_thread.run_sync(mounts.unmount, self._mountpoint)
            except NotFound:  # somebody else was faster
                pass
            except SnapfsError as error:
                log.warning("%s (%s); detaching it", error.message, error.hint)
                await self._detach()
            nursery.cancel_scope.cancel()

    async def _abort_after(self, seconds: float, mount: mounts.Mount) -> None:
        await trio.sleep(seconds)
        log.error("the kernel did not hand over what was written last in %.0f s; it is given up", seconds)
        self.kernel.pusher.kill()
        mounts.abort(mount)

    async def _detach(self) -> None:
        try:
            await self.kernel.push()
        except (SnapfsError, OSError) as error:
            log.error("cannot fetch what was written last: %s", error)
        try:
            await trio.to_thread.run_sync(lambda: mounts.unmount(self._mountpoint, lazy=True))
        except NotFound:
            pass
        except SnapfsError as error:
            log.error("%s", error.message)
        pyfuse3.terminate()  # the kernel keeps the connection for as long as something is open

    def close(self) -> None:
        """Free the session; the mount has ended or been detached, or is now."""
        self.kernel.pruner.end()
        mount = mounts.at(self._mountpoint)
        ours = mount is not None and self._device in (mount.device, "")
        if ours and self.ended.is_set():  # libfuse leaves it there when the connection was aborted
            with suppress(SnapfsError):
                mounts.unmount(self._mountpoint, lazy=True)
        pyfuse3.close(unmount=ours)
        self.kernel.pusher.stop()


async def _answer() -> None:
    """Answer requests until the kernel says that there will be no more."""
    try:
        await pyfuse3.main(min_tasks=_TASKS_MIN, max_tasks=_TASKS_MAX)
    except* ConnectionAbortedError:
        pass  # the kernel's word, in place of ENODEV, if the mount ends just while a request is fetched


def check_device() -> None:
    """Raises Unavailable, NotPermitted."""
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NotPermitted(f"{FUSE_DEVICE} may not be opened", hint="allow FUSE for this user") from None
        raise Unavailable(
            f"{FUSE_DEVICE} is missing", hint="modprobe fuse; a container needs --device /dev/fuse"
        ) from None


def _raise_read_ahead(device: str) -> None:
    knob = Path("/sys/class/bdi") / device / "read_ahead_kb"
    try:
        if int(knob.read_text()) < READ_AHEAD_KIB:
            knob.write_text(str(READ_AHEAD_KIB))
    except (OSError, ValueError) as error:  # as a user: reads are only slower
        log.info("read-ahead stays as it is: %s", error)


@contextmanager
def _standard_error(said: list[str]) -> Iterator[None]:
    """Collect the lines that C code writes to standard error."""
    caught = os.memfd_create("stderr", os.MFD_CLOEXEC)
    saved = os.dup(2)
    os.dup2(caught, 2)
    try:
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.lseek(caught, 0, os.SEEK_SET)
        with open(caught, "rb") as lines:
            said += [line.strip() for line in lines.read().decode(errors="replace").splitlines() if line.strip()]
