"""Into a head and out of a snapshot: import of a directory, export as a tar archive."""
