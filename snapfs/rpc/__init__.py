"""The API of ``proto/snapfs/v1``: messages and records, errors and statuses, dispatch, and the daemon's gRPC server.

Clients share ``convert``, ``status`` and ``library``; commands without a daemon share ``dispatch`` too, without grpc.
"""
