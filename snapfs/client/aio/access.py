"""Calls on tokens and the audit log."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Final

from snapfs import api
from snapfs.client.aio.calls import AsyncCalls
from snapfs.rpc import convert
from snapfs.v1 import access_pb2

SERVICE: Final = "snapfs.v1.AccessService"


class AsyncAccessCalls(AsyncCalls):
    """``snapfs.v1.AccessService``."""

    async def get_caller(self) -> api.Caller:
        """Who the daemon takes this client for."""
        answer = await self._unary(f"{SERVICE}/GetCaller", access_pb2.GetCallerRequest, access_pb2.GetCallerResponse)
        return convert.caller_of(answer)

    async def create_token(
        self,
        *,
        name: str,
        role: api.Role,
        volumes: Sequence[str] = (),
        expires_ns: int = 0,
        certificate: bool = False,
    ) -> api.NewToken:
        """The secret is told once, here.

        Args:
            volumes: may touch these only; empty: all.
            expires_ns: 0: never.
            certificate: let in who shows a client certificate of this name, instead of making a secret.

        Raises:
            AlreadyExists, Invalid, NameTooLong.
        """
        answer = await self._unary(
            f"{SERVICE}/CreateToken",
            lambda: access_pb2.CreateTokenRequest(
                name=name,
                role=convert.role_to(role),
                volumes=volumes,
                expire_time=convert.optional_time_to(expires_ns),
                certificate=certificate,
            ),
            access_pb2.CreateTokenResponse,
        )
        return convert.new_token_of(answer)

    async def list_tokens(self) -> list[api.Token]:
        """All, revoked and expired ones too."""
        answer = await self._unary(f"{SERVICE}/ListTokens", access_pb2.ListTokensRequest, access_pb2.ListTokensResponse)
        return [convert.token_of(message) for message in answer.tokens]

    async def revoke_token(self, *, name: str) -> api.Token:
        """From now on it is refused.  Raises NotFound."""
        answer = await self._unary(
            f"{SERVICE}/RevokeToken",
            lambda: access_pb2.RevokeTokenRequest(name=name),
            access_pb2.RevokeTokenResponse,
        )
        return convert.token_of(answer.token)

    async def list_audit_entries(
        self, *, from_ns: int = 0, caller: str = "", page_size: int = 0
    ) -> AsyncIterator[api.AuditEntry]:
        """Calls that changed something or tried to, oldest first.

        Args:
            from_ns: made at this time or later; 0: all.
            caller: only of this one; empty: of all.
            page_size: how many a request fetches; 0: as many as the daemon gives.
        """
        pages = self._pages(
            f"{SERVICE}/ListAuditEntries",
            lambda token: access_pb2.ListAuditEntriesRequest(
                page_size=page_size,
                page_token=token,
                from_time=convert.optional_time_to(from_ns),
                caller=caller,
            ),
            access_pb2.ListAuditEntriesResponse,
            lambda page: page.next_page_token,
        )
        async for page in pages:
            for message in page.entries:
                yield convert.audit_entry_of(message)
