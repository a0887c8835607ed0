"""The oracle, what drives it against the engine and a mount, and a disk that fails on demand.  For tests only."""
