"""What the service needs from a mount of the store; ``snapfs.fuse`` has it."""

from __future__ import annotations

from typing import Protocol

from snapfs.types import Ino


class Mounted(Protocol):
    """A mount of the store; a store opened directly has none."""

    async def push(self) -> None:
        """Make the kernel hand over its dirty pages (syncfs)."""

    @property
    def device(self) -> int:
        """st_dev of the mount; 0 while it is not served."""

    def is_known(self, volume_id: int, ino: Ino) -> bool:
        """Whether the kernel may have cached anything of an inode of the head, or of the names in it."""

    def keep_unlinked(self, volume_id: int, ino: Ino) -> bool:
        """Whether a file of the head that loses its last name is open and must stay until it is closed."""

    def outdate(self, volume_id: int, touched: object) -> object:
        """In the very step of a checkout or restore (no await between): what is open of what it touched goes
        stale.  ``refresh`` must get the result."""

    async def refresh(self, outdated: object) -> None:
        """Make the kernel forget what a checkout or restore touched.  After the volume's writes are let go again:
        the kernel waits for writes meanwhile, so while they are held it would wait for ever."""

    async def volume_removed(self, name: str) -> None:
        """Make the kernel forget the name of a volume that was removed."""
