"""AccessService.  Tokens and audit entries are in files, which worker threads read and write."""

from __future__ import annotations

from functools import partial

import trio

from snapfs.access.callers import Access
from snapfs.errors import Invalid
from snapfs.rpc import convert
from snapfs.rpc.handlers.common import Call, fitting
from snapfs.v1 import access_pb2


class AccessHandlers:
    def __init__(self, access: Access) -> None:
        self._access = access

    async def get_caller(
        self, request: access_pb2.GetCallerRequest, call: Call
    ) -> access_pb2.GetCallerResponse:
        return convert.caller_to(call.caller)

    async def create_token(
        self, request: access_pb2.CreateTokenRequest, call: Call
    ) -> access_pb2.CreateTokenResponse:
        if not request.role:
            raise Invalid("a token needs a role", hint="viewer, operator or admin")
        make = partial(
            self._access.create_token,
            name=request.name,
            role=convert.role_of(request.role),
            volumes=list(request.volumes),
            expires_ns=convert.time_of(request.expire_time),
            certificate=request.certificate,
        )
        return convert.new_token_to(await trio.to_thread.run_sync(make))

    async def list_tokens(
        self, request: access_pb2.ListTokensRequest, call: Call
    ) -> access_pb2.ListTokensResponse:
        tokens = await trio.to_thread.run_sync(self._access.list_tokens)
        return access_pb2.ListTokensResponse(tokens=[convert.token_to(token) for token in tokens])

    async def revoke_token(
        self, request: access_pb2.RevokeTokenRequest, call: Call
    ) -> access_pb2.RevokeTokenResponse:
        revoked = await trio.to_thread.run_sync(partial(self._access.revoke_token, name=request.name))
        return access_pb2.RevokeTokenResponse(token=convert.token_to(revoked))

    async def list_audit_entries(
        self, request: access_pb2.ListAuditEntriesRequest, call: Call
    ) -> access_pb2.ListAuditEntriesResponse:
        async def page(items: int) -> access_pb2.ListAuditEntriesResponse:
            look = partial(
                self._access.list_audit_entries,
                from_ns=convert.time_of(request.from_time),
                caller=request.caller,
                page_size=items,
                page_token=request.page_token,
            )
            found = await trio.to_thread.run_sync(look)
            return access_pb2.ListAuditEntriesResponse(
                entries=[convert.audit_entry_to(entry) for entry in found.entries],
                next_page_token=found.next_page_token,
            )

        return await fitting(page, request.page_size)
