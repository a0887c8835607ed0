"""What commands print: JSON documents, plain lines, tables; names made safe for one line and for a terminal.

- ``--json``: one document on stdout; file names that are not UTF-8 hold lone surrogates (``\\udcff`` is byte
  FF).
- Otherwise names with control, invisible or direction-changing characters are quoted with backslashes, so
  that no file can move the cursor or forge a line.
- Tables are aligned text; on a terminal rich draws those that are not long.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Final

_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_UNSAFE_CATEGORIES: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_COMMIT_NAME: Final = re.compile(r"^([0-9a-f]{12})[0-9a-f]{28,52}(\.[0-9]+)?$")
_DRAWN_ROWS_MAX: Final = 500
"""Rich takes about 0.3 ms a row (seen: 3 s for 10,000 rows, 0.1 s as aligned text), and who gets more reads them in a
pager."""
_ESCAPES: Final = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", '"': '\\"'}


def _escape(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    import unicodedata  # for names that are not ASCII

    if unicodedata.category(character) not in _UNSAFE_CATEGORIES:
        return character
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def quote(name: str) -> str:
    """The name as it is, or in double quotes with backslashes if it could mislead."""
    if name.isascii() and name.isprintable() and '"' not in name and "\\" not in name:
        return name
    escaped = "".join(map(_escape, name))
    return name if escaped == name else f'"{escaped}"'


def one_line(text: str) -> str:
    """A message that may hold names, on one line and without control characters."""
    return "".join(c if c in '"\\' or (c.isascii() and c.isprintable()) else _escape(c) for c in text)


def size(count_bytes: int) -> str:
    """``1.5 MiB``."""
    value = float(count_bytes)
    for unit in _UNITS[:-1]:
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} {_UNITS[-1]}"


def when(time_ns: int) -> str:
    """Local time to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(time_ns // 1_000_000_000))


def address(volume: str, snapshot: str) -> str:
    return f"{quote(volume)}@{quote(snapshot)}"


def short_address(text: str) -> str:
    """An address for a table: on a terminal a commit ID shows its first digits, which name it as well."""
    volume, at, name = text.rpartition("@")
    if on_terminal():
        name = _COMMIT_NAME.sub(r"\1\2", name)
    return f"{quote(volume)}@{quote(name)}" if at else quote(name)


def document(value: object) -> None:
    """One JSON document, indented."""
    import msgspec

    try:
        text = msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
    except UnicodeEncodeError:
        import json

        text = json.dumps(msgspec.to_builtins(value), indent=2)
    print(text)


def json_line(value: object) -> None:
    """One JSON document on a line of its own, told at once: somebody may wait for it at the end of a pipe."""
    print(_encoded(value), flush=True)


def documents(values: Iterable[object]) -> None:
    """One JSON array, an element a line, written as the values come."""
    separator = "["
    for value in values:
        print(f"{separator}\n{_encoded(value)}", end="")
        separator = ","
    print("[]" if separator == "[" else "\n]")


def _encoded(value: object) -> str:
    import msgspec

    try:
        return msgspec.json.encode(value).decode()
    except UnicodeEncodeError:
        import json

        return json.dumps(msgspec.to_builtins(value))


def line(text: str, *, flush: bool = False) -> None:
    print(text, flush=flush)


def on_terminal() -> bool:
    return sys.stdout.isatty()


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: frozenset[int] = frozenset()) -> None:
    """Columns with a heading.

    Args:
        right: indices of the columns that hold numbers.
    """
    if on_terminal() and len(rows) <= _DRAWN_ROWS_MAX:
        _rich_table(columns, rows, right)
        return
    widths = [max(len(row[i]) for row in (columns, *rows)) for i in range(len(columns))]
    for row in (columns, *rows):
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _rich_table(columns: Sequence[str], rows: Sequence[Sequence[str]], right: frozenset[int]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        drawn.add_column(column, justify="right" if i in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(Text, row))
    Console(highlight=False, markup=False, emoji=False).print(drawn)
