"""What bounds a client's connections, whatever carries them."""

from __future__ import annotations

from typing import Final

CONNECT_MILLISECONDS_MAX: Final = 5_000
"""For a connection to be usable: a daemon that is stopped accepts and says nothing."""
KEEPALIVE_MILLISECONDS: Final = 20_000
"""A call that waits this long probes whether the daemon lives."""
KEEPALIVE_TIMEOUT_MILLISECONDS: Final = 10_000
RESPONSE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A page of 1,000 snapshots with large notes is the largest answer."""
