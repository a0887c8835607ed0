"""One directory on a local disk: the index (LMDB), the segments (block bytes), a lock."""
