"""Configuration of a store: ``STORE/config.toml``."""

from __future__ import annotations

from snapfs.config.settings import FILE_NAME, Settings
from snapfs.config.tables import DEFINITIONS, Config, Value, as_toml, flat, host_port, is_loopback

__all__ = ["DEFINITIONS", "FILE_NAME", "Config", "Settings", "Value", "as_toml", "flat", "host_port", "is_loopback"]
