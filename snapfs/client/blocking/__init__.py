# Generated from scripts/generate.py by `make generate`: change that file, not this one.
"""The blocking client."""
