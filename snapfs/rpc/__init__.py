"""Private channel between the ``snap`` command and the daemon: JSON lines over a unix socket."""
