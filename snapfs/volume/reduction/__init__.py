"""Storing only what is new: cutting by content, zero runs, comparison with previous versions, compression."""
