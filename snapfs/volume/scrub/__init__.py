"""Scrub: everything verified online, slowly."""
