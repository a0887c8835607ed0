"""Bytes on disk and the frozen records they stand for.  docs/FORMAT.md is the same thing in prose."""
