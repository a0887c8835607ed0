"""fsck --repair: mend a store in place, or rebuild its index from the segments."""
