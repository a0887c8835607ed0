"""``snap audit``."""

from __future__ import annotations

import click

from snapfs import api

from . import exits, output
from .options import common
from .times import Moment


@click.command("audit")
@click.option("--since", "from_ns", type=Moment(), default=0, metavar="WHEN", help="E.g. 12h, 30d or 2026-12-31.")
@click.option("--caller", default="", metavar="NAME", help="Only calls of this token or certificate, owner or socket.")
@click.option("--verify", is_flag=True, help="Check that no entry was changed or taken out, instead of listing.")
@common
def command(from_ns: int, caller: str, verify: bool, store: str, as_json: bool) -> int:
    """Show who changed what, or tried to: every such call, oldest first.

    --verify follows the chain of hashes through the log's files, on the store's machine, and ends with 1 if something
    is wrong.  It tells the last entry's hash: noted elsewhere, it also shows later whether the end was cut off.

    \b
    Examples:
      snap audit --since 7d
      snap audit --caller jenkins --json
      snap audit --verify
    """
    if verify:
        if from_ns or caller:
            raise click.UsageError("--verify takes the whole log: no --since, no --caller")
        return _verify(store, as_json)
    from .session import opened

    with opened(store) as (_, calls):
        entries = calls.list_audit_entries(from_ns=from_ns, caller=caller)
        if as_json:
            output.documents(entries)
        else:
            for entry in entries:
                output.line(line(entry))
    return exits.OK


def line(entry: api.AuditEntry) -> str:
    """One entry for people."""
    if not entry.sequence:
        return "a damaged entry: see `snap audit --verify`"
    who = output.quote(entry.caller) if entry.caller else "(unknown)"
    method = entry.method.rpartition("/")[2]
    request = output.one_line(entry.request)
    return f"{output.when(entry.time_ns)}  {who}  {output.one_line(entry.peer)}  {entry.result}  {method} {request}"


def _verify(store: str, as_json: bool) -> int:
    from snapfs.access import journal
    from snapfs.store import layout

    from .session import here

    path = here(store)[0].store
    layout.read_marker(path)  # what is no store must not pass for one without entries
    found = journal.verify(path)
    if as_json:
        output.document(found)
    else:
        for finding in found.findings:
            output.line(output.one_line(finding))
        output.line(f"{found.entries} entries, {'damaged' if found.findings else 'whole'}")
        output.line(f"hash of the last, {found.head.sequence}: {found.head.chain}")
    return exits.FOUND if found.findings else exits.OK
