"""Open files and directories.

Invariants:
  * A handle's number is never given twice.
  * A stale handle belongs to a file's content before a checkout or restore: it reads and writes nothing
    any more.
  * A file without links is dropped with its last handle that is not stale.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from snapfs.errors import Stale
from snapfs.fuse.nodes import Node
from snapfs.types import Ino
from snapfs.versions.epochs import View


@dataclass(slots=True, eq=False)
class File:
    """One open(2) of a file."""

    node: Node
    view: View
    ino: Ino
    writable: bool
    direct: bool = False
    """O_DIRECT: its writes do not come by way of the kernel's cache."""
    internal: bool = False
    """Opened by this process itself, to make the kernel hand over dirty pages."""
    stale: bool = False

    def check(self) -> None:
        """Raises Stale."""
        if self.stale or self.view.gone:
            raise Stale(f"inode {self.ino} was replaced or removed while it was open")


@dataclass(slots=True, eq=False)
class Directory:
    """One opendir(3)."""

    node: Node
    listing: list[tuple[int, bytes]] = field(default_factory=list)
    """Of a virtual directory: (cookie, name) as of the last rewind, by cookie."""


class Handles:
    """All that is open."""

    def __init__(self) -> None:
        self._next = 1
        self._files: dict[int, File] = {}
        self._directories: dict[int, Directory] = {}
        self._by_node: dict[Node, list[File]] = {}
        self._unlinked: set[Node] = set()
        """Nodes without links that are kept for their handles."""

    def open_file(self, file: File) -> int:
        number = self._next
        self._next = number + 1
        self._files[number] = file
        siblings = self._by_node.get(file.node)
        if siblings is None:
            self._by_node[file.node] = [file]
        else:
            siblings.append(file)
        return number

    def file(self, number: int) -> File:
        """Raises Stale."""
        file = self._files.get(number)
        if file is None:
            raise Stale(f"file handle {number} is not open")
        return file

    def close_file(self, number: int) -> tuple[File, bool]:
        """The file, and whether it is without links and was the last handle of its node to count."""
        file = self._files.pop(number)
        siblings = self._by_node[file.node]
        if len(siblings) == 1:
            del self._by_node[file.node]
        else:
            siblings.remove(file)
        if file.node not in self._unlinked or file.stale or self.is_open(file.node):
            return file, False
        self._unlinked.remove(file.node)
        return file, True

    def files_open(self) -> int:
        """How many files are open."""
        return len(self._files)

    def is_open(self, node: Node) -> bool:
        files = self._by_node.get(node)
        return files is not None and any(not file.stale for file in files)

    def has_open(self, node: Node) -> bool:
        """Whether anything is open of the node, stale or not."""
        return node in self._by_node

    def keep_unlinked(self, node: Node) -> bool:
        """The engine asks, as the node's last link goes: must it stay for its handles?"""
        if not self.is_open(node):
            return False
        self._unlinked.add(node)
        return True

    def is_kept(self, node: Node) -> bool:
        """Whether the node has no links, but handles."""
        return node in self._unlinked

    def outdate(self, node: Node) -> bool:
        """The node's content was replaced: what is open of it is stale; whether anything is (or mapped, which keeps it
        open)."""
        files = self._by_node.get(node, ())
        for file in files:
            file.stale = True
        self._unlinked.discard(node)
        return bool(files)

    def written(self) -> list[File]:
        """One writable handle of each node that has one and may have dirty pages in the kernel."""
        found = []
        for files in self._by_node.values():
            for file in files:
                if file.writable and not file.stale and not file.view.gone:
                    found.append(file)
                    break
        return found

    def open_directory(self, directory: Directory) -> int:
        number = self._next
        self._next = number + 1
        self._directories[number] = directory
        return number

    def directory(self, number: int) -> Directory:
        """Raises Stale."""
        directory = self._directories.get(number)
        if directory is None:
            raise Stale(f"directory handle {number} is not open")
        return directory

    def close_directory(self, number: int) -> None:
        self._directories.pop(number, None)
