"""The `snap` command: one file per verb.  Nothing in snapfs imports this package."""
