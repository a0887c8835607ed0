"""What each RPC does: one class a service of ``proto/snapfs/v1``, one method an RPC, named in snake_case.

A handler gets a request that is well-formed and allowed, and a ``Call``; it returns the response, or is an async
generator of responses.  It converts and calls the service; it decides nothing.  No grpc here.
"""
