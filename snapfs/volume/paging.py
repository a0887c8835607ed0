"""Pages of a list: how many, and tokens that say where the next page begins.

A token is opaque to a caller: it is bound to the question (``scope``) by a digest, so that one of another list,
or a mangled one, is refused instead of giving a wrong page.  It is no secret and grants nothing.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from blake3 import blake3

from snapfs.errors import Invalid

PAGE_MAX: Final = 1000
"""Items on a page, at most and by default."""

TOKEN_CHARACTERS_MAX: Final = 1024
_DIGEST_BYTES: Final = 8


def page_items(page_size: int) -> int:
    """How many items a page that was asked for has; 0 asks for the most.

    Raises:
        Invalid: a negative number.
    """
    if page_size < 0:
        raise Invalid(f"a page size of {page_size} is not possible", hint=f"1 to {PAGE_MAX}, or 0 for {PAGE_MAX}")
    return min(page_size or PAGE_MAX, PAGE_MAX)


def encode_token(scope: str, position: bytes) -> str:
    """The token for what comes after the position in the list that scope describes."""
    return base64.urlsafe_b64encode(_digest(scope, position) + position).decode().rstrip("=")


def decode_token(scope: str, token: str) -> bytes:
    """The position of a token.

    Raises:
        Invalid: it is none of this list.
    """
    try:
        if len(token) > TOKEN_CHARACTERS_MAX:
            raise ValueError("too long")
        raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except (ValueError, binascii.Error):
        raw = b""
    found, position = raw[:_DIGEST_BYTES], raw[_DIGEST_BYTES:]
    if found != _digest(scope, position):
        raise Invalid(
            "this page token is not one of this list",
            hint="pass next_page_token as it came, and ask the same as for the page before",
        )
    return position


def _digest(scope: str, position: bytes) -> bytes:
    raw = scope.encode(errors="surrogatepass")
    return blake3(len(raw).to_bytes(8, "little") + raw + position).digest(length=_DIGEST_BYTES)
