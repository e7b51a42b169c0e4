"""`berth config`: show the settings, and check a configuration file before a restart."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from pathlib import Path

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation


@click.group()
def config() -> None:
    """Show or check the configuration."""


@config.command()
@json_option
@pass_invocation
def show(invocation: Invocation) -> None:
    """Print all settings as YAML, with defaults.

    The output is a valid configuration file.
    """
    import yaml

    settings = invocation.config.model_dump(mode="json")
    if invocation.json:
        output.print_json(settings)
    else:
        output.write(yaml.safe_dump(settings, sort_keys=False, allow_unicode=False))


@config.command()
@click.argument("file", type=click.Path(path_type=Path), required=False)
@json_option
@pass_invocation
def check(invocation: Invocation, file: Path | None) -> None:
    """Check FILE, or the current configuration.

    Exit code 2 if it is invalid. The files of `web.oidc` and the keys of `profiles.signers` are read
    too: check as root.
    """
    from broker.config.oidc_files import file_faults
    from broker.config.settings import load_config
    from broker.config.signature_policy import signer_faults
    from broker.errors import InvalidInputError

    checked = load_config(file)
    faults = [*file_faults(checked.web.oidc), *signer_faults(checked)]
    if faults:
        text = "\n  ".join([f"{len(faults)} faults of files:", *(each.message for each in faults)])
        hints = dict.fromkeys(each.hint for each in faults)
        raise InvalidInputError(faults[0].message if len(faults) == 1 else text, hint="; ".join(hints))
    if invocation.json:
        output.print_json({"ok": True, "mode": checked.mode})
    else:
        output.print_note(f"the configuration is valid ({checked.mode} mode)")
