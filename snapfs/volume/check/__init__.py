"""fsck: every invariant of a committed store, checked by reading all of it."""
