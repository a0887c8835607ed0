"""The mount: FUSE requests to the engine, and the kernel's caches kept true.  The only importer of
pyfuse3."""
