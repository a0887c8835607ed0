"""Accounts: maintained figures of which views show which blocks, and what is told from them."""
