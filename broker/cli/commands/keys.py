"""`berth key`: manage the public keys that open your sessions, besides ~/.ssh/authorized_keys."""

from __future__ import annotations

from typing import IO

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.errors import InvalidInputError
from broker.format import format_time

MAX_FILE_BYTES = 16384
"""No public key is longer. A private key that was picked by mistake should not travel."""


@click.group()
def key() -> None:
    """Say which public keys open your sessions."""


@key.command()
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@json_option
@pass_invocation
def add(invocation: Invocation, file: IO[bytes]) -> None:
    """Add a public key from FILE, or from stdin for `-`.

    Such as ~/.ssh/id_ed25519.pub. It opens sessions that run already as well.
    """
    added = invocation.client.add_key(read_public_key(file))
    if invocation.json:
        output.print_json(added)
    else:
        output.print_line(f"{added.fingerprint} {added.algorithm} {added.comment}".rstrip())


def read_public_key(file: IO[bytes]) -> str:
    """Return the one public key in a file. InvalidInputError if there is none, or several, or a private one.

    Lines are those of sshd (`broker.ssh.keys`): in text mode, Python would begin a new one at a carriage return.
    """
    content = file.read(MAX_FILE_BYTES + 1)
    if b"PRIVATE KEY" in content:
        raise InvalidInputError("this is a private key; it stays with you", hint="give the file that ends in .pub")
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"a file with a public key has at most {MAX_FILE_BYTES} bytes", hint="give the file that ends in .pub"
        )
    lines = [line.strip(" \t\r") for line in content.decode(errors="replace").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1:
        raise InvalidInputError(
            f"expected one public key, found {len(lines)} lines", hint="one at a time; `-` reads stdin"
        )
    return lines[0]


@key.command("list")
@json_option
@pass_invocation
def list_keys(invocation: Invocation) -> None:
    """List the keys that open your sessions, with their source."""
    keys = invocation.client.keys()
    if invocation.json:
        output.print_json({"keys": [each.model_dump(mode="json") for each in keys]})
        return
    output.print_table(
        ("FINGERPRINT", "TYPE", "SOURCE", "ADDED", "COMMENT"),
        [
            (
                each.fingerprint,
                each.algorithm,
                each.source,
                "" if each.added_at is None else format_time(each.added_at),
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
        output.print_json(removed)
    else:
        output.print_note(f"removed {removed.fingerprint} {removed.comment}".rstrip())
