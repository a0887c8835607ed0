"""A bar of bytes on a terminal, for what takes in or gives out trees."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .output import size


@contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[int], None] | None]:
    """Is told the bytes done so far; draws on a terminal; None elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TransferSpeedColumn

    columns = (
        SpinnerColumn(), TextColumn("{task.description}  {task.fields[size]}"), TransferSpeedColumn(),
        TimeElapsedColumn(),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, size=size(0))

        def show(done_bytes: int) -> None:
            bar.update(task, completed=done_bytes, size=size(done_bytes))

        yield show
