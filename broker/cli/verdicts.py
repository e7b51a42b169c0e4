"""Verdicts and records of rebuilds for commands: what they contain about an image, and how they are shown."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.cli import output

if TYPE_CHECKING:
    from broker.cli.context import Invocation
    from profiles.image.store import Image
    from profiles.image.verdict_file import Verdict
    from profiles.image.vulnerability_count import VulnerabilityCount


def sbom_digest(image: Image) -> str | None:
    """Return the digest of the image's inventory; None for an image without one."""
    from profiles.image.store import file_digest
    from profiles.inventory.model import CYCLONEDX_NAME

    try:
        return file_digest(image.directory / CYCLONEDX_NAME)
    except FileNotFoundError:
        return None


def known_vulnerabilities(invocation: Invocation, image: Image) -> VulnerabilityCount | None:
    """Compare the image with the site's data; None if there are none, or none for it, which a note then says."""
    from broker.cli.inventory import load_inventory
    from profiles.errors import ProfilesError
    from profiles.image.vulnerability_count import count_vulnerabilities

    folder = invocation.config.profiles.vulnerability_data
    if folder is None:
        return None
    try:
        return count_vulnerabilities(load_inventory(invocation, image)[0], folder)
    except ProfilesError as error:
        output.print_note(f"vulnerabilities were not counted: {error.message}")
        return None


def verdict_json(image: Image) -> dict[str, object]:
    """Return the verdict on an image as `verdict`, for its JSON object; with a `problem` if it cannot be used."""
    from profiles.errors import DamagedVerdictError
    from profiles.image.verdict_file import read_verdict

    try:
        verdict = read_verdict(image)
    except DamagedVerdictError as error:
        return {"verdict": {"passed": False, "problem": error.message}}
    return {"verdict": None if verdict is None else describe_verdict(verdict, image)}


def rebuild_json(image: Image) -> dict[str, object]:
    """Return what a rebuild has changed as `rebuild`, for the image's JSON object; {} for another image."""
    from profiles.image.rebuild_record import read_rebuild_record

    record = read_rebuild_record(image)
    if record is None:
        return {}
    return {"rebuild": record.model_dump(mode="json", include={"rebuilt_from", "changes", "vulnerabilities"})}


def describe_verdict(verdict: Verdict, image: Image) -> dict[str, object]:
    """Return a verdict as a JSON object, with whether the image has passed."""
    shown = verdict.model_dump(mode="json", exclude={"format", "name", "version", "digest"})
    return {"passed": verdict.has_passed(image.profile), **shown}
