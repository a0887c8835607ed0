"""Seals: digests that prove what a snapshot shows."""
