"""`berth key`: the public keys that open your sessions, besides those in your ~/.ssh/authorized_keys."""

from __future__ import annotations

from typing import IO

import click

from broker.cli import output
from broker.cli.invocation import Invocation, json_option, pass_invocation
from broker.errors import InvalidInputError
from broker.words import clock

MAX_FILE = 16384
"""Bytes; no public key is longer, and a private one picked by mistake should not travel."""


@click.group()
def key() -> None:
    """Say which public keys open your sessions."""


@key.command()
@click.argument("file", type=click.File("r"), metavar="FILE|-")
@json_option
@pass_invocation
def add(invocation: Invocation, file: IO[str]) -> None:
    """Add a public key from FILE, or from stdin for `-`.

    Such as ~/.ssh/id_ed25519.pub. It opens sessions that run already as well.
    """
    added = invocation.client.add_key(read_public_key(file))
    if invocation.json:
        output.show_json(added)
    else:
        output.data(f"{added.fingerprint} {added.algorithm} {added.comment}".rstrip())


def read_public_key(file: IO[str]) -> str:
    """The one public key in a file; InvalidInputError if there is none, or several, or a private one."""
    text = file.read(MAX_FILE).strip()
    if "PRIVATE KEY" in text:
        raise InvalidInputError("this is a private key; it stays with you", hint="give the file that ends in .pub")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if len(lines) != 1:
        raise InvalidInputError(
            f"expected one public key, found {len(lines)} lines", hint="one at a time; `-` reads stdin"
        )
    return lines[0].strip()


@key.command("list")
@json_option
@pass_invocation
def list_keys(invocation: Invocation) -> None:
    """List the keys that open your sessions, with their source."""
    keys = invocation.client.keys()
    if invocation.json:
        output.show_json({"keys": [each.model_dump(mode="json") for each in keys]})
        return
    output.table(
        ("FINGERPRINT", "TYPE", "SOURCE", "ADDED", "COMMENT"),
        [
            (
                each.fingerprint,
                each.algorithm,
                each.source,
                "" if each.added_at is None else clock(each.added_at),
                each.comment,
            )
            for each in keys
        ],
    )


@key.command()
@click.argument("fingerprint", metavar="FINGERPRINT")
@json_option
@pass_invocation
def remove(invocation: Invocation, fingerprint: str) -> None:
    """Remove a key that was added with `berth key add`.

    Keys in ~/.ssh/authorized_keys are removed there. Connections that stand are not ended.
    """
    removed = invocation.client.remove_key(fingerprint)
    if invocation.json:
        output.show_json(removed)
    else:
        output.narrate(f"removed {removed.fingerprint} {removed.comment}".rstrip())
