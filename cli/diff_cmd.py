"""``snap diff``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from snapfs import api

from . import addresses, output
from .options import common

_LETTERS = {
    api.ChangeKind.ADDED: ("A", "green"),
    api.ChangeKind.DELETED: ("D", "red"),
    api.ChangeKind.MODIFIED: ("M", "yellow"),
    api.ChangeKind.RENAMED: ("R", "cyan"),
}


def _line(change: api.Change) -> str:
    letter, colour = _LETTERS[change.kind]
    if output.on_terminal():
        letter = click.style(letter, fg=colour)
    slash = "/" if change.type == "directory" else ""
    path = output.quote(change.path + slash)
    if change.kind is api.ChangeKind.RENAMED:
        path = f"{output.quote(change.old_path + slash)} -> {path}"
    parts = []
    if change.type not in ("file", "directory"):
        parts.append(change.type)
    if change.type == "file" and change.kind is api.ChangeKind.ADDED:
        parts.append(output.size(change.new_bytes))
    elif change.type == "file" and change.kind is api.ChangeKind.DELETED:
        parts.append(output.size(change.old_bytes))
    elif change.type == "file" and change.content:
        sizes = f"{output.size(change.old_bytes)} -> {output.size(change.new_bytes)}"
        parts.append(f"{sizes}, {output.size(change.changed_bytes)} changed")
    if change.metadata and not change.content and change.kind is api.ChangeKind.MODIFIED:
        parts.append("metadata")
    return f"{letter}  {path}" + (f"  ({', '.join(parts)})" if parts else "")


def print_changes(changes: Iterator[api.Change], *, as_json: bool, nothing: str) -> None:
    """As they come; and, for people, how many there were."""
    if as_json:
        output.documents(changes)
        return
    counts: dict[api.ChangeKind, int] = {}
    changed_bytes = 0
    for change in changes:
        counts[change.kind] = counts.get(change.kind, 0) + 1
        changed_bytes += change.changed_bytes
        output.line(_line(change))
    summary = ", ".join(f"{counts[kind]} {kind}" for kind in api.ChangeKind if kind in counts)
    if not summary:
        output.line(nothing)
    else:
        output.line(f"{summary}; {output.size(changed_bytes)} of content")


@click.command("diff")
@click.argument("older", metavar="VOLUME@A")
@click.argument("newer", metavar="[VOLUME[@B]]", default="")
@common
def command(older: str, newer: str, store: str, as_json: bool) -> None:
    """Show what changed between two snapshots.

    From A to B; without B to the head.

    One path a line: A added, D deleted, M modified, R renamed, and sizes.  The cost is that of the changes,
    whatever the volume's size.

    \b
    Examples:
      snap diff digits@cleaned
      snap diff digits@4f2a9c1 digits@cleaned
      snap diff digits@cleaned other-volume
      snap diff @cleaned --json
    """
    from .session import opened

    first = addresses.parse(older)
    second = addresses.parse_volume_or_snapshot(newer)
    with opened(store) as (place, calls):
        volume, snapshot = place.snapshot(calls, first)
        changes = calls.diff(volume=volume, snapshot=snapshot, other_volume=second.volume, other=second.snapshot)
        print_changes(changes, as_json=as_json, nothing="no differences")
