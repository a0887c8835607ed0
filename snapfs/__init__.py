"""snapfs: NetApp-style snapshots bound to git, for any Linux machine."""

__version__ = "0.1.0"
