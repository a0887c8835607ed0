"""``snap completion``."""

from __future__ import annotations

import click

from . import output
from .options import json_option

NAMES = ("snap", "snapfs")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@json_option
@click.pass_context
def command(context: click.Context, shell: str, as_json: bool) -> None:
    """Print the completion script of a shell.

    For both names of the command.

    \b
    Examples:
      snap completion bash > ~/.local/share/bash-completion/completions/snap
      source <(snap completion zsh)
      snap completion fish > ~/.config/fish/completions/snap.fish
    """
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    assert found is not None  # the choice above is click's own list
    root = context.find_root().command
    sources = [found(root, {}, name, f"_{name.upper()}_COMPLETE").source() for name in NAMES]
    script = "\n".join(sources)
    if as_json:
        output.document({"shell": shell, "script": script})
    else:
        output.line(script)
