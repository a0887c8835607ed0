"""HPACK (RFC 7541) without its dynamic table: how HTTP/2 writes the headers of a call.

Invariants:

- We tell the other side that our table has size 0, so what it sends refers to the static table only; anything else is
  an error.
- We send plain literals: our headers are few, and of one connection.
- Pure; what it decodes comes from a daemon, yet nothing in it can make this loop, grow or index out of range.

The library `hpack` is the oracle of its tests; at a command's start it would cost 5 ms, this 0.3.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import Final

_STATIC_NAMES: Final = (
    b":authority :method :method :path :path :scheme :scheme :status :status :status :status :status :status :status "
    b"accept-charset accept-encoding accept-language accept-ranges accept access-control-allow-origin age allow "
    b"authorization cache-control content-disposition content-encoding content-language content-length "
    b"content-location content-range content-type cookie date etag expect expires from host if-match "
    b"if-modified-since if-none-match if-range if-unmodified-since last-modified link location max-forwards "
    b"proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie "
    b"strict-transport-security transfer-encoding user-agent vary via www-authenticate"
).split()
"""Appendix A; its first entry has the index 1."""
_STATIC_VALUES: Final[dict[int, bytes]] = {
    2: b"GET", 3: b"POST", 4: b"/", 5: b"/index.html", 6: b"http", 7: b"https", 8: b"200", 9: b"204", 10: b"206",
    11: b"304", 12: b"400", 13: b"404", 14: b"500", 16: b"gzip, deflate",
}  # fmt: skip
_CODE_BITS: Final = bytes.fromhex(
    "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c060a0a0c0d06080b0a0a080b080606060505050606060606"
    "060607080f060c0a0d06070707070707070707070707070707070707070707070807080d130d0e060f050605060506060605070706060605"
    "06070605050607070707070f0b0e0d1c14161414161616171617171717171817181816171817171717151617161717181615141616171715"
    "1716161815161717151516151716171714161616171616171a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
    "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a1e"
)
"""Appendix B: bits of each byte's code, and of the end sign's.  The code is canonical: these say all of it."""
_CODE_BITS_MAX: Final = 30
_INTEGER_BYTES_MAX: Final = 5

Header = tuple[bytes, bytes]


class Malformed(Exception):
    """Bytes that are no headers."""


def encode(headers: Iterable[Header]) -> bytes:
    """A block of literals that no table shall keep."""
    return b"".join(b"\x00" + _string(name) + _string(value) for name, value in headers)


def _string(text: bytes) -> bytes:
    length = len(text)
    if length < 0x7F:
        return bytes((length,)) + text
    head, rest = bytearray((0x7F,)), length - 0x7F
    while rest >= 0x80:
        head.append(0x80 | rest & 0x7F)
        rest >>= 7
    head.append(rest)
    return bytes(head) + text


def decode(block: bytes) -> Iterator[Header]:
    """The headers of a whole block.

    Raises:
        Malformed: it is none, or refers to a dynamic table.
    """
    at = 0
    try:
        while at < len(block):
            first = block[at]
            if first & 0x80:  # an entry of the table
                index, at = _integer(block, at, 7)
                yield _name(index), _STATIC_VALUES.get(index, b"")
            elif first & 0xE0 == 0x20:  # the size of the table, which has none
                size, at = _integer(block, at, 5)
                if size:
                    raise Malformed("a table of headers was not asked for")
            else:
                # to be kept in the table, which keeps none: 6 bits of index; else 4
                index, at = _integer(block, at, 6 if first & 0x40 else 4)
                if index:
                    name = _name(index)
                else:
                    name, at = _literal(block, at)
                value, at = _literal(block, at)
                yield name, value
    except IndexError:
        raise Malformed("headers end in the middle") from None


def _name(index: int) -> bytes:
    if not 0 < index <= len(_STATIC_NAMES):
        raise Malformed(f"no header has the index {index}")
    return _STATIC_NAMES[index - 1]


def _integer(block: bytes, at: int, bits: int) -> tuple[int, int]:
    """Value, and where the next begins."""
    full = (1 << bits) - 1
    value = block[at] & full
    at += 1
    if value < full:
        return value, at
    for place in range(_INTEGER_BYTES_MAX):
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at
    raise Malformed("a number is too large")


def _literal(block: bytes, at: int) -> tuple[bytes, int]:
    coded = block[at] & 0x80
    length, at = _integer(block, at, 7)
    end = at + length
    if end > len(block):
        raise Malformed("headers end in the middle")
    text = block[at:end]
    return _huffman(text) if coded else text, end


@functools.cache
def _codes() -> dict[tuple[int, int], int]:
    """Byte by (bits, code)."""
    found: dict[tuple[int, int], int] = {}
    code, before = -1, 0
    for bits, byte in sorted((bits, byte) for byte, bits in enumerate(_CODE_BITS)):
        code = (code + 1) << (bits - before)
        before = bits
        found[bits, code] = byte
    return found


def _huffman(text: bytes) -> bytes:
    codes, found = _codes(), bytearray()
    code = bits = 0
    for byte in text:
        for place in range(7, -1, -1):
            code = code << 1 | byte >> place & 1
            bits += 1
            known = codes.get((bits, code))
            if known is not None:
                if known == 256:
                    raise Malformed("a text with a sign for its end")
                found.append(known)
                code = bits = 0
            elif bits >= _CODE_BITS_MAX:
                raise Malformed("a text of no known code")
    if bits > 7 or code != (1 << bits) - 1:
        raise Malformed("a text that ends in the middle of a sign")
    return bytes(found)
