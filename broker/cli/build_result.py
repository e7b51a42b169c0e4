"""The result of a build on the terminal and as JSON."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.stores import print_published

if TYPE_CHECKING:
    from pathlib import Path

    from broker.cli.context import Invocation
    from profiles.build.result import BuildResult
    from profiles.image.store import Image


def print_build(invocation: Invocation, result: BuildResult, sign_key: Path | None = None) -> None:
    """Print the image, whether it was built, what each step took, and the report of a container image.

    With `sign_key`, say that an image which was not built was not signed either.
    """
    image = result.image
    steps = [asdict(step) for step in result.steps]
    print_published(invocation, image, {"built": result.built, "steps": steps, **import_report(image)})
    if invocation.json:
        return
    if not result.built:
        output.print_note(f"Nothing was built: {image.name}@{image.version} is published from the same recipe.")
        if sign_key is not None:
            sign = f"`berth profile sign {image.name}@{image.version} --key {sign_key}`"
            output.print_note(f"Nothing was signed either: {sign} signs the published image.")
        return
    output.print_note(f"Steps: {'; '.join(f'{step.name} {step}' for step in result.steps)}")
    for line in result.imported.summary() if result.imported else []:
        output.print_note(line)


def import_report(image: Image) -> dict[str, object]:
    """Return the report of the container image that an image was made from, as `import`; {} if there was none."""
    from profiles.build.import_report import read_import_report

    report = read_import_report(image.directory)
    return {} if report is None else {"import": report}
