"""``python -m snapfs.daemon``: the process that ``start`` leaves behind; not meant for users."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from snapfs.daemon.process import background


def main() -> int:
    parser = argparse.ArgumentParser(prog="snapfs.daemon", allow_abbrev=False)
    parser.add_argument("--report-fd", type=int, required=True)
    parser.add_argument("--allow-other", action="store_true")
    parser.add_argument("--xattrs", action="store_true")
    parser.add_argument("store", type=Path)
    parser.add_argument("mountpoint", type=Path)
    chosen = parser.parse_args()
    return background(
        chosen.store,
        chosen.mountpoint,
        report_fd=chosen.report_fd,
        allow_other=chosen.allow_other,
        xattrs=chosen.xattrs,
    )


if __name__ == "__main__":
    sys.exit(main())
