"""Changes between two trees, one a line."""

from __future__ import annotations

from collections.abc import Iterator

from snapfs import errors
from snapfs.v1 import snapshot_pb2

from . import output

_KINDS = {
    snapshot_pb2.CHANGE_KIND_ADDED: ("added", "A", 32),
    snapshot_pb2.CHANGE_KIND_DELETED: ("deleted", "D", 31),
    snapshot_pb2.CHANGE_KIND_MODIFIED: ("modified", "M", 33),
    snapshot_pb2.CHANGE_KIND_RENAMED: ("renamed", "R", 36),
}
"""Word, letter, and the number of its colour on a terminal: green, red, yellow, cyan."""
_WITHOUT_TYPE = (snapshot_pb2.FILE_TYPE_FILE, snapshot_pb2.FILE_TYPE_DIRECTORY)


def _line(change: snapshot_pb2.Change) -> str:
    _, letter, colour = _KINDS[change.kind]
    if output.on_terminal():
        letter = f"\x1b[{colour}m{letter}\x1b[0m"
    path = _shown(change.path, change)
    if change.kind == snapshot_pb2.CHANGE_KIND_RENAMED:
        path = f"{_shown(change.old_path, change)} -> {path}"
    parts = []
    is_file = change.type == snapshot_pb2.FILE_TYPE_FILE
    if change.type not in _WITHOUT_TYPE:
        parts.append(snapshot_pb2.FileType.Name(change.type).removeprefix("FILE_TYPE_").lower())
    if is_file and change.kind == snapshot_pb2.CHANGE_KIND_ADDED:
        parts.append(output.size(change.new_bytes))
    elif is_file and change.kind == snapshot_pb2.CHANGE_KIND_DELETED:
        parts.append(output.size(change.old_bytes))
    elif is_file and change.content:
        sizes = f"{output.size(change.old_bytes)} -> {output.size(change.new_bytes)}"
        parts.append(f"{sizes}, {output.size(change.changed_bytes)} changed")
    if change.metadata and not change.content and change.kind == snapshot_pb2.CHANGE_KIND_MODIFIED:
        parts.append("metadata")
    return f"{letter}  {path}" + (f"  ({', '.join(parts)})" if parts else "")


def _shown(path: bytes, change: snapshot_pb2.Change) -> str:
    slash = "/" if change.type == snapshot_pb2.FILE_TYPE_DIRECTORY else ""
    return output.quote(path.decode("utf-8", "surrogateescape") + slash)


def print_changes(changes: Iterator[snapshot_pb2.Change], *, as_json: bool, nothing: str) -> None:
    """As they come; and, for people, how many there were.

    Raises:
        Unsupported: a change of a kind or type that a newer daemon knows.
    """
    if as_json:
        from snapfs.rpc import convert

        output.documents(map(convert.change_of, changes))
        return
    counts = dict.fromkeys(_KINDS, 0)
    changed_bytes = 0
    for change in changes:
        if change.kind not in counts or change.type not in snapshot_pb2.FileType.values() or not change.type:
            told = f"change {change.kind} of a file of type {change.type} is unknown to this version of snapfs"
            raise errors.Unsupported(told, hint="use the same version as the daemon")
        counts[change.kind] += 1
        changed_bytes += change.changed_bytes
        output.line(_line(change))
    summary = ", ".join(f"{count} {_KINDS[kind][0]}" for kind, count in counts.items() if count)
    if not summary:
        output.line(nothing)
    else:
        output.line(f"{summary}; {output.size(changed_bytes)} of content")
