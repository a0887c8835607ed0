"""File trees as plain objects, what can be seen of them, and how two of them differ.

Invariants:
  * A hard link is the same ``Node`` under two names; copying a tree keeps that structure.
  * ``ident`` tells nodes apart and survives copying, as an inode number does; ``stamp`` changes with whatever
    would change ctime.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

Path = tuple[bytes, ...]
"""Names from the volume's root down; empty for the root itself."""

FILE, DIRECTORY, SYMLINK, FIFO = "file", "directory", "symlink", "fifo"


@dataclass(eq=False)
class Node:
    ident: int
    stamp: int
    kind: str
    mode: int
    data: bytearray = field(default_factory=bytearray)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    mtime_ns: int = 0
    entries: dict[bytes, Node] = field(default_factory=dict)

    def walk(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """All paths below and including this one, parents first, by name."""
        yield path, self
        for name in sorted(self.entries):
            yield from self.entries[name].walk((*path, name))


@dataclass(frozen=True)
class Shown:
    """All that can be seen of one path."""

    kind: str
    mode: int
    mtime_ns: int
    """0 for directories, whose times do not count."""
    content: bytes
    """Of a file its bytes, of a symbolic link its target."""
    xattrs: tuple[tuple[bytes, bytes], ...]
    links: tuple[Path, ...]
    """All paths of the same file, of a directory only its own."""


Tree = dict[Path, Shown]


def shown(root: Node) -> Tree:
    paths: dict[int, list[Path]] = {}
    for path, node in root.walk():
        paths.setdefault(node.ident, []).append(path)
    return {
        path: Shown(
            kind=node.kind,
            mode=node.mode,
            mtime_ns=0 if node.kind == DIRECTORY else node.mtime_ns,
            content=bytes(node.data) if node.kind == FILE else node.target,
            xattrs=tuple(sorted(node.xattrs.items())),
            links=tuple(sorted(paths[node.ident])),
        )
        for path, node in root.walk()
    }


def differences(expected: Tree, found: Tree) -> list[str]:
    """What is wrong with ``found``, a readable line each."""
    lines = []
    for path in sorted(expected.keys() | found.keys()):
        name = "/" + "/".join(part.decode(errors="backslashreplace") for part in path)
        want, have = expected.get(path), found.get(path)
        if have is None:
            lines.append(f"{name}: missing")
        elif want is None:
            lines.append(f"{name}: should not be there")
        else:
            lines += [f"{name}: {line}" for line in _unlike(want, have)]
    return lines


def _unlike(want: Shown, have: Shown) -> Iterator[str]:
    for name in ("kind", "mode", "mtime_ns", "xattrs", "links"):
        if getattr(want, name) != getattr(have, name):
            yield f"{name} is {getattr(have, name)!r}, should be {getattr(want, name)!r}"
    if want.content != have.content:
        if len(want.content) != len(have.content):
            yield f"has {len(have.content)} bytes, should have {len(want.content)}"
        both = zip(want.content, have.content, strict=False)
        first = next((place for place, (a, b) in enumerate(both) if a != b), None)
        if first is not None:
            yield f"differs from byte {first} on: {have.content[first : first + 8]!r}..., should be " + repr(
                want.content[first : first + 8]
            )


def moved_directories(old: Node | None, new: Node) -> set[tuple[Path, Path]]:
    """(old path, new path) of each directory that has another parent or name, and by that another path."""
    was = _directory_links(old) if old else {}
    now = _directory_links(new)
    moved = {(was[i][1], now[i][1]) for i in was.keys() & now.keys() if was[i][0] != now[i][0]}
    return {(one, other) for one, other in moved if one != other}


def _directory_links(root: Node) -> dict[int, tuple[tuple[int, bytes], Path]]:
    found = {}
    for path, node in root.walk():
        for name, child in node.entries.items():
            if child.kind == DIRECTORY:
                found[child.ident] = ((node.ident, name), (*path, name))
    return found


def changed_paths(old: Node | None, new: Node) -> tuple[set[Path], set[Path], set[Path]]:
    """(only in old, only in new, in both but different)."""
    was, now = shown(old) if old else {}, shown(new)
    was.setdefault((), now[()])  # the root of nothing is as the other root
    both = was.keys() & now.keys()
    return (
        set(was.keys() - now.keys()),
        set(now.keys() - was.keys()),
        {path for path in both if _visible(was[path]) != _visible(now[path])},
    )


def _visible(one: Shown) -> tuple[object, ...]:
    return one.kind, one.mode, one.mtime_ns, one.content, one.xattrs


def differ(old: Node | None, new: Node) -> bool:
    return any(changed_paths(old, new)) or bool(moved_directories(old, new))
