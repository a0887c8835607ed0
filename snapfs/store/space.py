"""What the blocks of a store take: the counters that table ``meta`` keeps of them."""

from __future__ import annotations

import msgspec

from snapfs.format import segments as fmt
from snapfs.format.records import Block


class Space(msgspec.Struct):
    """Of all live blocks.  Each field is a name in table ``meta``."""

    stored_bytes: int = 0
    """Records of files' blocks in the segments."""
    raw_bytes: int = 0
    """The same blocks before compression."""
    seal_bytes: int = 0
    """Records of seals in the segments."""

    def count(self, entry: Block, sign: int = 1) -> None:
        """A block came (or, -1, went).  One that is lost takes nothing."""
        if entry.lost:
            return
        size = sign * fmt.record_bytes(entry.stored_bytes)
        if entry.kind == fmt.DATA:
            self.stored_bytes += size
            self.raw_bytes += sign * entry.raw_bytes
        else:
            self.seal_bytes += size

    def counters(self) -> dict[str, int]:
        return msgspec.structs.asdict(self)


COUNTERS = Space.__struct_fields__
