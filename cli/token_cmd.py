"""``snap token create|list|revoke``."""

from __future__ import annotations

import time

import click

from snapfs import api

from . import output
from .options import common
from .times import Moment


@click.group("token")
def command() -> None:
    """Make, list and revoke tokens: who may call the daemon, and for what.

    \b
    Roles, each may all that those before it may:
      viewer    looks at volumes, snapshots, settings, metrics; exports snapshots
      operator  changes volumes and snapshots, checks the store
      admin     purges, empties the trash, locks; changes settings and tokens, reads the audit log

    \b
    Examples:
      snap token create jenkins --role operator --volume digits --expires 90d
      snap token list
      snap token revoke jenkins
    """


@command.command("create")
@click.argument("name")
@click.option(
    "--role", required=True, type=click.Choice([role.value for role in api.Role]), help="What the token may do."
)
@click.option("--volume", "volumes", multiple=True, metavar="VOLUME", help="Only on this volume; repeat for more.")
@click.option(
    "--expires", "expires_ns", type=Moment(ahead=True), default=0, metavar="WHEN", help="E.g. 30d or 2026-12-31."
)
@click.option("--for-certificate", is_flag=True, help="NAME is that of a client certificate; no secret is made.")
@common
def create(
    name: str, role: str, volumes: tuple[str, ...], expires_ns: int, for_certificate: bool, store: str, as_json: bool
) -> None:
    """Make a token and print its secret, which is told only now.

    Clients find it in SNAPFS_TOKEN, or in a file (--token-file).  With --for-certificate, who shows a client
    certificate with NAME as its common name or one of its alternative names is let in instead.

    \b
    Examples:
      snap token create jenkins --role operator --volume digits --expires 90d > jenkins.token
      snap token create dashboard --role viewer
      snap token create build1.example.org --role operator --for-certificate
    """
    from .session import opened

    with opened(store) as (_, calls):
        made = calls.create_token(
            name=name, role=api.Role(role), volumes=volumes, expires_ns=expires_ns, certificate=for_certificate
        )
    if as_json:
        output.document(made)
    elif made.secret:
        output.line(made.secret)
    else:
        output.line(f"registered the certificate {output.quote(name)}")


@command.command("list")
@common
def list_tokens(store: str, as_json: bool) -> None:
    """List the tokens, also those that expired or were revoked.

    \b
    Examples:
      snap token list
      snap token list --json
    """
    from .session import opened

    with opened(store) as (_, calls):
        tokens = calls.list_tokens()
    if as_json:
        output.document(tokens)
        return
    rows = [
        (
            output.quote(token.name),
            "certificate" if token.certificate else "token",
            token.role,
            ", ".join(map(output.quote, token.volumes)) or "all",
            output.when(token.created_ns),
            state(token, time.time_ns()),
        )
        for token in tokens
    ]
    output.table(("NAME", "KIND", "ROLE", "VOLUMES", "CREATED", "STATE"), rows)


def state(token: api.Token, now_ns: int) -> str:
    """Whether it is in force, in words."""
    if token.revoked_ns:
        return f"revoked {output.when(token.revoked_ns)}"
    if not token.expires_ns:
        return "in force"
    return f"{'expired' if token.expires_ns <= now_ns else 'until'} {output.when(token.expires_ns)}"


@command.command("revoke")
@click.argument("name")
@common
def revoke(name: str, store: str, as_json: bool) -> None:
    """Refuse the token NAME from now on.

    It stays on record, so that the audit log stays clear: its name is not used again.

    \b
    Examples:
      snap token revoke jenkins
    """
    from .session import opened

    with opened(store) as (_, calls):
        revoked = calls.revoke_token(name=name)
    if as_json:
        output.document(revoked)
    else:
        output.line(f"revoked the token {output.quote(revoked.name)}")
