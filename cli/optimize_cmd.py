"""``snap optimize``."""

from __future__ import annotations

import click

from . import output
from .options import common
from .sizes import parse_size


@click.command("optimize")
@click.argument("volume", default="")
@click.argument("paths", metavar="[PATH...]", nargs=-1)
@click.option("--rate", default="", metavar="SIZE", help="Read at most so much a second.  [default: no limit]")
@common
def command(volume: str, paths: tuple[str, ...], rate: str, store: str, as_json: bool) -> None:
    """Store the files of a volume anew where that saves space or speeds up reading.

    Looks at files whose data lies in many small pieces (written in place, or bit by bit), or was stored before
    something equal was known. Never takes more space; snapshots stay as they are. Beside the volume's use; when
    interrupted, run it again.

    \b
    Examples:
      snap optimize digits
      snap optimize digits tables/log.db --rate 50M
    """
    from .fsck_cmd import progress_bar
    from .session import opened

    bytes_per_second = parse_size(rate) if rate else 0
    if rate and not bytes_per_second:
        raise click.UsageError("--rate must be more than 0")
    with opened(store) as (place, calls), progress_bar("optimizing") as progress:
        name = place.volume(calls, volume)
        inside = [place.path(path, name) for path in paths]
        report = calls.optimize(volume=name, paths=inside, bytes_per_second=bytes_per_second, progress=progress)
    if as_json:
        output.document(report)
        return
    output.line(
        f"{output.quote(name)}: {report.files} files looked at, {report.rewritten} stored anew "
        f"({output.size(report.read_bytes)} read, {output.size(report.written_bytes)} written), "
        f"in {report.extents_after} pieces instead of {report.extents_before}"
    )
