"""``snap verify``."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import click
import msgspec

from . import addresses, exits, output
from .options import common

if TYPE_CHECKING:
    from snapfs import api

_DIGEST = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"([0-9a-f]{4,64})(?:\.[0-9]+)?")
_COMMIT_DIGITS = (40, 64)


@click.command("verify")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.option("--digest", default="", metavar="HEX", help="The seal that the snapshot must have.")
@click.option("--note", is_flag=True, help="The seal must be that in the commit's git note (snap git note).")
@common
def command(snapshot: str, digest: str, note: bool, store: str, as_json: bool) -> int:
    """Prove that a snapshot is what it was.

    Reads all that it shows and compares it with its seal: the digest over its content, its record and its parent's
    digest, given once in the background after it was made.  Who may write the store could seal anew: a digest
    that was written down elsewhere shows that too (--digest, or --note in the repository of its commit).
    Exit code 1 if something differs.

    \b
    Examples:
      snap verify digits@cleaned
      snap verify digits@4f2a9c1 --note
      snap verify digits@cleaned --digest 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
    """
    from .fsck_cmd import progress_bar
    from .session import opened

    if digest and not _DIGEST.fullmatch(digest.lower()):
        raise click.UsageError("--digest wants 64 hexadecimal digits")
    address = addresses.parse(snapshot)
    with opened(store) as (place, calls), progress_bar() as progress:
        volume, name = place.snapshot(calls, address)
        report = calls.verify_snapshot(volume=volume, snapshot=name, progress=progress)
    report = _compared(report, digest.lower(), name if note else "")
    if as_json:
        output.document(report)
        return exits.FOUND if report.findings else exits.OK
    for finding in report.findings:
        output.line(f"{finding.code}: {output.one_line(finding.message)}")
    verdict = f"{len(report.findings)} findings" if report.findings else "proven"
    output.line(
        f"{output.address(report.snapshot.volume, report.snapshot.name)}: {verdict}; "
        f"{report.files} files, {output.size(report.data_read_bytes)} read"
    )
    output.line(
        f"seal {report.digest or 'none'}" + ("" if report.chained else " (the snapshot before it is gone, or none was)")
    )
    return exits.FOUND if report.findings else exits.OK


def _compared(report: api.VerifyReport, digest: str, noted_as: str) -> api.VerifyReport:
    """The report with what the given digest and the commit's note say.

    Args:
        noted_as: how the snapshot was asked for; empty: the note is not asked.
    """
    from snapfs import api

    more = []
    if digest and digest != report.digest:
        more.append(api.Finding(code="digest", message=f"the seal is not {digest}"))
    if noted_as:
        wrong = _note_finding(report, noted_as)
        more += [api.Finding(code="note", message=wrong)] if wrong else []
    return msgspec.structs.replace(report, findings=[*report.findings, *more])


def _note_finding(report: api.VerifyReport, asked: str) -> str:
    """What is wrong with the note of the snapshot's commit; empty if it holds the seal."""
    from snapfs import errors
    from snapfs.git import notes
    from snapfs.git.repository import Repository

    from .session import current_directory

    git = report.snapshot.git
    if git is None:
        raise errors.Invalid(f"snapshot {report.snapshot.name!r} belongs to no commit", hint="--digest compares, too")
    meant = _commit_meant(report.snapshot, asked)
    if not git.commit.startswith(meant):  # else another commit's snapshot would pass by taking this one's name
        return f"it is of commit {git.commit}, not of {meant}"
    directory = current_directory()
    if directory is None:
        raise errors.NotFound("the current directory was deleted")
    found = notes.of_volume(Repository(directory, os.environ), git.commit, report.snapshot.volume)
    if not found:
        return f"no note of commit {git.commit} speaks of this volume (snap git note)"
    same = [noted for noted in found if noted.name == report.snapshot.name] or found
    if any(noted.digest == report.digest for noted in same):
        return ""
    return f"the note of commit {git.commit} has another seal: {same[0].digest}"


def _commit_meant(snapshot: api.Snapshot, asked: str) -> str:
    """The commit's ID, or how it begins, that the snapshot was asked for by; empty if by a name of another kind."""
    commit = _COMMIT.fullmatch(asked)
    if commit is None or (asked in (snapshot.name, *snapshot.tags) and len(commit[1]) not in _COMMIT_DIGITS):
        return ""
    return commit[1]
