#!/usr/bin/env python3
"""Makes what is made from other files, in place; with --check changes nothing and names what is not current.

- ``snapfs/v1``: the stubs of ``proto/snapfs/v1``, by protoc.
- ``snapfs/client/blocking``: the blocking client, from the one for asyncio (``snapfs/client/aio``), by unasync.

Exit codes: 0 all is current (now), 1 something was not (--check), 2 it cannot be made.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = Path("proto")
PACKAGE = Path("snapfs/v1")
ASYNC = Path("snapfs/client/aio")
BLOCKING = Path("snapfs/client/blocking")

MARK = "# Generated from {source} by `make generate`: change that file, not this one.\n"
REPLACEMENTS = {
    "aio": "blocking",
    "asyncio": "time",
    **{
        f"Async{name}": name
        for name in (
            "Transport",
            "Calls",
            "VolumeCalls",
            "SnapshotCalls",
            "StoreCalls",
            "EventCalls",
            "OperationCalls",
            "AccessCalls",
            "SpaceCalls",
            "RetentionCalls",
            "TransferCalls",
            "Client",
        )
    },
}
"""Names of the asyncio client, and what they are in the blocking one; the rest is unasync's own."""

Files = dict[Path, bytes]
"""Content by path relative to the repository."""


def stubs() -> Files:
    """The modules of ``snapfs.v1``, as protoc and its plugins make them."""
    import grpc_tools
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(ROOT / PROTO)) for path in (ROOT / PROTO).rglob("*.proto"))
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    with tempfile.TemporaryDirectory() as made:
        outputs = [f"--{kind}={made}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
        status = protoc.main(["protoc", f"-I{ROOT / PROTO}", f"-I{well_known}", *outputs, *sources])
        if status != 0:
            sys.exit(2)
        return {path.relative_to(made): path.read_bytes() for path in Path(made).rglob("*.py*")}


def blocking_client() -> Files:
    """The modules of ``snapfs.client.blocking``."""
    import unasync

    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, ASYNC), Path(scratch, BLOCKING)
        source.mkdir(parents=True)
        for path in sorted((ROOT / ASYNC).glob("*.py")):
            (source / path.name).write_bytes(path.read_bytes())
        rule = unasync.Rule(str(source), str(target), additional_replacements=REPLACEMENTS)
        unasync.unasync_files([str(path) for path in sorted(source.iterdir())], [rule])
        for path in target.iterdir():
            text = _without_second_import(path.read_text("utf-8"))
            path.write_text(MARK.format(source=ASYNC / path.name) + text, "utf-8")
        _lay_out(target)
        made = {BLOCKING / path.name: path.read_bytes() for path in target.glob("*.py")}
    made[BLOCKING / "__init__.py"] = (
        MARK.format(source=Path("scripts") / Path(__file__).name) + '"""The blocking client."""\n'
    ).encode()
    return made


def _without_second_import(text: str) -> str:
    """``import asyncio`` became ``import time``: once is enough, in its place among the others."""
    lines = text.splitlines(keepends=True)
    imports = [number for number, line in enumerate(lines) if line == "import time\n"]
    if not imports:
        return text
    for number in reversed(imports):
        del lines[number]
    block = imports[0]
    while lines[block].startswith("import ") and lines[block] < "import time\n":
        block += 1
    lines.insert(block, "import time\n")
    return "".join(lines)


def _lay_out(directory: Path) -> None:
    """As all of our code: shorter words change the order of imports and where lines break."""
    for command in (["check", "--quiet", "--select", "I,UP028", "--fix", "--unsafe-fixes"], ["format", "--quiet"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--no-cache", "--config", str(ROOT / "pyproject.toml")]
        subprocess.run([*ruff, str(directory)], check=True)


def stale(files: Files) -> Iterator[Path]:
    """Those that are missing or different on disk."""
    for path, content in files.items():
        try:
            current = (ROOT / path).read_bytes()
        except FileNotFoundError:
            current = None
        if current != content:
            yield path


def left_over(files: Files) -> Iterator[Path]:
    """Files beside generated ones that nothing generates any more."""
    for directory, patterns in ((PACKAGE, ("*_pb2*.py", "*_pb2.pyi")), (BLOCKING, ("*.py",))):
        for pattern in patterns:
            for path in (ROOT / directory).glob(pattern):
                if path.relative_to(ROOT) not in files:
                    yield path.relative_to(ROOT)


def main(arguments: Iterable[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Makes what is made from other files.", allow_abbrev=False)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if something is not current")
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    files = {**stubs(), **blocking_client()}
    old, superfluous = sorted(stale(files)), sorted(set(left_over(files)))
    for path in old:
        print(f"{'not current' if chosen.check else 'made'}: {path}")
        if not chosen.check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_bytes(files[path])
    for path in superfluous:
        print(f"{'not generated any more' if chosen.check else 'removed'}: {path}")
        if not chosen.check:
            (ROOT / path).unlink()
    return 1 if chosen.check and (old or superfluous) else 0


if __name__ == "__main__":
    sys.exit(main())
