"""`berth login`, `logout` and `ca`: manage short-lived user certificates and the authorities that sign them."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import time
from typing import IO, TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import FINGERPRINT, Hours
from broker.format import pluralize

if TYPE_CHECKING:
    from broker.schema.login import AuthorityKeyView, AuthorityKind, UserCertificateView

kind_argument = click.argument("kind", type=click.Choice(["host", "user", "web"]))

now_option = click.option("--now", is_flag=True, help="Do not wait; see above for the users that this locks out.")


@click.command()
@click.option(
    "--public-key",
    type=click.File("rb"),
    metavar="FILE|-",
    help="Certify this public key and print the certificate. Default: the key of `berth ssh`.",
)
@click.option("--hours", type=Hours(), help="Validity, up to the site's limit.")
@click.option("--list", "listing", is_flag=True, help="List your certificates instead.")
@json_option
@pass_invocation
def login(invocation: Invocation, *, public_key: IO[bytes] | None, hours: float | None, listing: bool) -> None:
    """Get a login certificate for some hours.

    For sites that require certificates (`ssh.login_with`). The certificate is for one of your keys and for your
    account. On a login node, the default is the key of `berth ssh`. For a laptop, request it over the login node:

    \b
      cd ~/.ssh
      ssh LOGIN berth login --public-key - <id_ed25519.pub >id_ed25519-cert.pub

    OpenSSH uses the certificate if it is beside the key under that name.
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.commands.keys import read_public_key
    from broker.schema.login import UserCertificateRequest

    if listing:
        _list(invocation)
        return
    if public_key is None:
        from broker.cli import login_key

        view = login_key.certify_key(invocation.client, hours)
        if invocation.json:
            output.print_json(view)
            return
    else:
        answer = invocation.client.sign(UserCertificateRequest(public_key=read_public_key(public_key), hours=hours))
        if invocation.json:
            output.print_json(answer)
            return
        output.print_line(answer.certificate)
        view = answer.view
    _print_validity(view)


def _print_validity(view: UserCertificateView) -> None:
    from broker.format import format_duration, format_time

    now = time.time()
    until = f"{format_time(view.valid_before, now)} ({format_duration(view.valid_before - now)})"
    output.print_note(f"the certificate for {view.fingerprint} is valid until {until}")


def _list(invocation: Invocation) -> None:
    from broker.format import format_time

    found = invocation.client.certificates()
    if invocation.json:
        output.print_json({"certificates": [each.model_dump(mode="json") for each in found]})
        return
    if not found:
        output.print_note("You have no certificates.")
        return
    now = time.time()
    output.print_table(
        ("KEY", "COMMENT", "SINCE", "UNTIL", ""),
        [
            (
                each.fingerprint,
                each.comment,
                format_time(each.issued_at, now),
                format_time(each.valid_before, now),
                "revoked" if each.revoked_at is not None else "",
            )
            for each in found
        ],
    )


@click.command()
@click.argument("fingerprint", type=FINGERPRINT, metavar="[FINGERPRINT]", required=False)
@json_option
@pass_invocation
def logout(invocation: Invocation, fingerprint: str | None) -> None:
    """Revoke your login certificates.

    All of them, or those for the key FINGERPRINT of `berth login --list`. Open connections stay; `berth stop` ends
    them. A key that is allowed without a certificate stays allowed until `berth key remove`.
    """
    from broker.cli import login_key

    revoked = invocation.client.revoke(fingerprint)
    login_key.delete_login_key([each.fingerprint for each in revoked])
    if invocation.json:
        output.print_json({"revoked": [each.model_dump(mode="json") for each in revoked]})
        return
    for each in revoked:
        output.print_line(each.fingerprint)
    output.print_note(f"{pluralize(len(revoked), 'certificate')} revoked")


@click.group()
def ca() -> None:
    """Manage the certificate authorities."""


@ca.command("list")
@json_option
@pass_invocation
def list_authorities(invocation: Invocation) -> None:
    """List the keys of the certificate authorities.

    `host` signs for sessions and the gateway, `user` for `berth login`, `web` for web access.
    """
    from broker.format import format_time

    found = invocation.client.authorities()
    if invocation.json:
        output.print_json({"keys": [each.model_dump(mode="json") for each in found]})
        return
    now = time.time()
    output.print_table(
        ("FOR", "KEY", "STANDING", "SINCE"),
        [(each.kind, each.fingerprint, each.standing, format_time(each.since, now)) for each in found],
    )


@ca.command()
@kind_argument
@now_option
@json_option
@pass_invocation
def rotate(invocation: Invocation, kind: AuthorityKind, *, now: bool) -> None:
    """Replace an authority's signing key, without a gap.

    `host` needs two calls, because clients must learn the new key first. The first call announces the key. The second
    call, `ssh.ca_overlap_days` later, makes it the signing key. With --now, it signs at once; clients that have not run
    `berth ssh-config` since then refuse all sessions that start later. `user` and `web` sign with the new key at once,
    and users need not do anything. Certificates of the old key stay valid until `berth ca retire`. For root and the
    service account.
    """
    _print_key(invocation, invocation.client.rotate(kind, now=now))


@ca.command()
@kind_argument
@click.argument("fingerprint", type=FINGERPRINT)
@now_option
@json_option
@pass_invocation
def retire(invocation: Invocation, kind: AuthorityKind, fingerprint: str, *, now: bool) -> None:
    """Stop trusting a former signing key.

    While certificates of the key may still be valid, this needs --now. For `host`, clients then refuse sessions that
    have not been started since the rotation; for `user`, all users must run `berth login` again; for `web`, nothing
    else happens. For root and the service account.
    """
    _print_key(invocation, invocation.client.retire(kind, fingerprint, now=now), gone=True)


def _print_key(invocation: Invocation, key: AuthorityKeyView, *, gone: bool = False) -> None:
    if invocation.json:
        output.print_json(key)
    else:
        output.print_note(f"{key.fingerprint} is {'no longer trusted' if gone else key.standing}")
