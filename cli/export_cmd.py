"""``snap export``."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click

from . import addresses, exits, output
from .options import common
from .progress import bytes_bar

STANDARD_OUTPUT: Final = "-"
ARCHIVE_SUFFIX: Final = ".tar"
_FILTERS: Final = ("tar", "data", "fully_trusted")
_PROBLEMS_SHOWN_MAX: Final = 100


@click.command("export")
@click.argument("snapshot", metavar="VOLUME@SNAPSHOT")
@click.argument("target", metavar="DIR|FILE.tar|-")
@click.option(
    "--filter", "filter_name", type=click.Choice(_FILTERS), default="tar", show_default=True,
    help="What a directory gets, by the rules of Python's tarfile (PEP 706): `tar` leaves out setuid, setgid and "
    "sticky bits, rights of group and others to write, and attributes other than `user.`; `data` also devices, "
    "fifos, owners, and links that lead out; `fully_trusted` leaves out nothing.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Into a directory that is not empty, or over FILE.tar.")
@common
@click.pass_context
def command(
    context: click.Context, snapshot: str, target: str, filter_name: str, force: bool, store: str, as_json: bool
) -> int:
    """Copy a snapshot out of the store, into a directory or a tar archive.

    The archive is a POSIX one (pax), with times to the nanosecond, owners, hard links, extended attributes, devices and
    holes; sockets are left out. It comes through the daemon, which may be another machine's, and the directory or
    file is made on this side, with your rights. Nothing is ever written outside DIR. Exit code 1 if something could not
    be made.

    \b
    Examples:
      snap export digits@cleaned /tmp/digits
      snap export digits@cleaned digits.tar
      snap export digits@v1 - | zstd > digits-v1.tar.zst
      snap export digits@v1 /restore --filter fully_trusted
    """
    from .session import opened

    address = addresses.parse(snapshot)
    is_archive = target == STANDARD_OUTPUT or (target.endswith(ARCHIVE_SUFFIX) and not Path(target).is_dir())
    if is_archive and context.get_parameter_source("filter_name") is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("--filter goes with a directory: an archive has everything")
    if target == STANDARD_OUTPUT and as_json:
        raise click.UsageError("the archive goes to standard output: no --json")
    check = _check_output if target == STANDARD_OUTPUT else _check_archive if is_archive else _check_directory
    check(target, force)
    with opened(store) as (place, calls), bytes_bar("exporting") as show:
        volume, name = place.snapshot(calls, address)
        calls.get_snapshot(volume=volume, snapshot=name)  # nothing is made for one that does not exist
        parts = calls.export_snapshot(volume=volume, snapshot=name)
        if not is_archive:
            return _unpack(parts, Path(target), filter_name, show, as_json)
        if target == STANDARD_OUTPUT:
            _write(parts, sys.stdout.buffer, show)
            return exits.OK
        total_bytes = _store(parts, Path(target), show)
    if as_json:
        output.document({"path": target, "total_bytes": total_bytes})
    else:
        output.line(f"exported {output.size(total_bytes)} to {output.quote(target)}")
    return exits.OK


def _check_output(_target: str, _force: bool) -> None:
    if sys.stdout.isatty():
        raise click.UsageError("an archive is not for a terminal: send it to a file or a program")


def _check_archive(target: str, force: bool) -> None:
    from snapfs.errors import AlreadyExists

    if not force and os.path.lexists(target):
        raise AlreadyExists(f"{target!a} exists", hint="replace it with --force")


def _check_directory(target: str, force: bool) -> None:
    from snapfs.errors import NotADirectory, NotEmpty

    path = Path(target)
    if path.is_dir():
        if not force and any(path.iterdir()):
            raise NotEmpty(f"{target!a} is not empty", hint="unpack over what is there with --force")
    elif os.path.lexists(path):
        raise NotADirectory(f"{target!a} is not a directory", hint=f"an archive's name ends in {ARCHIVE_SUFFIX}")


def _write(parts: Iterator[bytes], file: BinaryIO, show: Callable[[int], None] | None) -> int:
    total = 0
    for part in parts:
        file.write(part)
        total += len(part)
        if show is not None:
            show(total)
    file.flush()
    return total


def _store(parts: Iterator[bytes], path: Path, show: Callable[[int], None] | None) -> int:
    """Under the name only when it is whole, and on the disk."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name[:100]}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            total = _write(parts, file, show)
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(file.fileno(), 0o666 & ~mask)
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    return total


def _unpack(
    parts: Iterator[bytes], path: Path, filter_name: str, show: Callable[[int], None] | None, as_json: bool
) -> int:
    from .unpacking import Received, Unpacking

    path.mkdir(exist_ok=True)
    unpacking = Unpacking(path, filter_name)
    unpacking.run(Received(parts, show))
    for problem in unpacking.problems[:_PROBLEMS_SHOWN_MAX]:
        print(output.one_line(problem), file=sys.stderr)
    count = len(unpacking.problems)
    if as_json:
        output.document(
            {"path": str(path), "files": unpacking.files, "directories": unpacking.directories, "problems": count}
        )
    else:
        wrong = f"; {count} PROBLEMS" if count else ""
        output.line(f"exported {unpacking.files} files and {unpacking.directories} directories{wrong}")
    return exits.FOUND if count else exits.OK
