"""Who a call comes from (tokens, client certificates, the way it came) and what callers did (the audit log)."""

from snapfs.access.callers import OWNER, SOCKET, Access, Transport

__all__ = ["OWNER", "SOCKET", "Access", "Transport"]
