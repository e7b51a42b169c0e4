"""`berth key`: manage the public keys that open your sessions, besides ~/.ssh/authorized_keys."""

from __future__ import annotations

from typing import IO

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import FINGERPRINT
from broker.errors import InvalidInputError
from broker.format import format_time

MAX_FILE_BYTES = 16384
"""No public key is longer. A private key that was selected by mistake must not be sent."""


@click.group()
def key() -> None:
    """Manage the public keys for your sessions."""


@key.command()
@click.argument("file", type=click.File("rb"), metavar="FILE|-")
@json_option
@pass_invocation
def add(invocation: Invocation, file: IO[bytes]) -> None:
    """Add a public key from FILE, or from stdin for `-`.

    For example ~/.ssh/id_ed25519.pub. The key also works for sessions that already run.
    """
    added = invocation.client.add_key(read_public_key(file))
    if invocation.json:
        output.print_json(added)
    else:
        output.print_line(f"{added.fingerprint} {added.algorithm} {added.comment}".rstrip())


def read_public_key(file: IO[bytes]) -> str:
    """Return the public key in a file. InvalidInputError if the file has no key, several keys, or a private key.

    Lines are split as in `broker.ssh.keys`; Python's text mode would also split at a carriage return.
    """
    content = file.read(MAX_FILE_BYTES + 1)
    if b"PRIVATE KEY" in content:
        raise InvalidInputError("this is a private key; never share it", hint="use the file that ends in .pub")
    if len(content) > MAX_FILE_BYTES:
        raise InvalidInputError(
            f"a file with a public key has at most {MAX_FILE_BYTES} bytes", hint="use the file that ends in .pub"
        )
    lines = [line.strip(" \t\r") for line in content.decode(errors="replace").split("\n")]
    lines = [line for line in lines if line and not line.startswith("#")]
    if len(lines) != 1:
        raise InvalidInputError(
            f"expected one public key, found {len(lines)} lines", hint="add one key at a time; `-` reads stdin"
        )
    return lines[0]


@key.command("list")
@json_option
@pass_invocation
def list_keys(invocation: Invocation) -> None:
    """List the public keys that can log in to your sessions."""
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
@click.argument("fingerprint", type=FINGERPRINT, metavar="FINGERPRINT")
@json_option
@pass_invocation
def remove(invocation: Invocation, fingerprint: str) -> None:
    """Remove a key that was added with `berth key add`.

    Remove keys of ~/.ssh/authorized_keys in that file. Open connections are not closed.
    """
    removed = invocation.client.remove_key(fingerprint)
    if invocation.json:
        output.print_json(removed)
    else:
        output.print_note(f"removed {removed.fingerprint} {removed.comment}".rstrip())
