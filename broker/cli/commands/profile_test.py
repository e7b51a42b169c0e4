"""`berth profile test`: test a version in a real session."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from broker.cli import output
from broker.cli.commands.sessions import timeout_option
from broker.cli.context import Invocation, json_option, pass_invocation
from broker.cli.params import ProfileName
from broker.cli.stores import catalog_of, image_json, profile_errors, store_option
from broker.errors import BerthError, InvalidInputError, RefusedError

if TYPE_CHECKING:
    from pathlib import Path

    from broker.user_input import ProfileReference
    from profiles.image.store import Image
    from profiles.image.verdict_file import Verdict


@click.command("test")
@click.argument("wanted", type=ProfileName(), metavar="PROFILE[@VERSION|@CHANNEL]")
@store_option
@timeout_option
@json_option
@pass_invocation
def profile_test(invocation: Invocation, wanted: ProfileReference, store: Path | None, timeout: float | None) -> None:
    """Test a version in a session of yours.

    Starts a session with the profile's own resources, logs in with ssh, copies a file with sftp, runs `dpkg --audit`
    and the profile's `checks`, and looks for the GPU that the profile asks for. Then it stops the session, starts it
    again, repeats all that, and deletes the session. --timeout counts for each start and stop.

    The result is verdict.json beside the image, which `berth profile promote` needs. You need to own the store. Exit
    code 1 if a step fails. A test that is interrupted leaves the earlier verdict, and deletes its session; one that was
    killed leaves its session to the next test of the image.

    \b
      berth profile test solver@candidate
    """  # noqa: D301 - \b is click's mark for lines to leave alone
    from broker.cli.verdicts import describe_verdict

    with profile_errors():
        catalog = catalog_of(invocation, store)
        image = catalog.find(wanted.name, wanted.version)
        owner = catalog.owner_of(image)
        verdict = test_image(invocation, image, owner, timeout=timeout)
    if invocation.json:
        output.print_json(image_json(image, owner) | {"verdict": describe_verdict(verdict, image)})
    report_verdict(invocation, image, verdict)


def test_image(invocation: Invocation, image: Image, owner: str, *, timeout: float | None) -> Verdict:
    """Test an image, write its verdict and return it."""
    from broker.cli.profile_trial import run_trial
    from broker.cli.stores import OTHER
    from profiles.image.verdict_file import write_verdict

    label = f"{image.name}@{image.version}"
    if owner in {"", OTHER}:
        raise InvalidInputError(
            f"no session can start from {label}: sessions do not search {image.directory.parent.parent}",
            hint="a test is a real session; publish the image in your own store or the site's",
        )
    _require_owned(image, label)
    verdict = run_trial(invocation, image, owner, timeout=timeout)
    write_verdict(image, verdict)
    return verdict


def report_verdict(invocation: Invocation, image: Image, verdict: Verdict) -> None:
    """Say that the image has passed. BerthError if it has not."""
    label = f"{image.name}@{image.version}"
    if not verdict.has_passed(image.profile):
        failed = ", ".join(dict.fromkeys(step.name for step in verdict.failures()))
        raise BerthError(f"{label} has not passed: {failed}", hint=f"{image.directory}/verdict.json has the verdict")
    if not invocation.json:
        output.print_note(f"{label} has passed; `berth profile promote {label}` makes it stable")


def _require_owned(image: Image, label: str) -> None:
    """Raise RefusedError, before anything is started, unless this user's verdict would count."""
    import os

    if os.geteuid() not in {0, image.directory.stat().st_uid} or not os.access(image.directory, os.W_OK):
        raise RefusedError(
            f"{label} belongs to another user, whose test alone counts",
            hint="ask the owner of the store, or build the profile in your own",
        )
