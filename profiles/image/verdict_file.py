"""The verdict on a version, `<store>/<name>/<version>/verdict.json`: the result of its test in a real session.

It counts for one image, whose digest it names. Its file must belong to the owner of the version, and be closed to
changes by others. Everything in it is checked: a user who may write to the store may have written anything into it.
Times are seconds since the epoch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from profiles.errors import DamagedVerdictError, UntestedImageError
from profiles.image.checked_record import (
    CheckedRecord,
    Digest,
    RecordTime,
    ShortLine,
    parse_checked_record,
    record_text,
    require_printable,
)
from profiles.image.store_files import read_owned_text, replace_text
from profiles.image.vulnerability_count import VulnerabilityCount
from profiles.recipe.check import MAX_CHECKS, asks_for_gpu
from profiles.userfile import UnfitFileError

if TYPE_CHECKING:
    from profiles.image.store import Image
    from profiles.recipe.spec import Profile

VERDICT_FILE = "verdict.json"
VERDICT_FORMAT = 1
MAX_VERDICT_BYTES = 1 << 20
"""Limit of the file: with the limits below it has less."""
MAX_STEP_OUTPUT_CHARS = 2000
"""Characters of the end of a step's output that a verdict keeps."""
MAX_STEP_S = 1e7
"""Seconds of a step, waiting in Slurm's queue included."""
MAX_STEPS = 2 * (MAX_CHECKS + 8)

FIRST_RUN, SECOND_RUN = 1, 2
"""The session's first start, and its start after a stop."""
START, SSH, SFTP, DPKG, GPU, STOP = "start", "ssh", "sftp", "dpkg", "gpu", "stop"


OutputLine = Annotated[str, StringConstraints(max_length=MAX_STEP_OUTPUT_CHARS), AfterValidator(require_printable)]


class TrialStep(CheckedRecord):
    """One step of a test."""

    name: ShortLine
    """One of the steps above, or `check NAME`."""
    run: Annotated[int, Field(ge=FIRST_RUN, le=SECOND_RUN)]
    """FIRST_RUN or SECOND_RUN."""
    outcome: Literal["passed", "failed", "absent"]
    """`absent`: the image has nothing to test, such as no dpkg."""
    seconds: Annotated[float, Field(ge=0, lt=MAX_STEP_S)]
    message: ShortLine = ""
    """The reason of a failure, or what was found."""
    output: Annotated[list[OutputLine], Field(max_length=MAX_STEP_OUTPUT_CHARS)] = Field(default_factory=list)
    """The end of the step's output, at most MAX_STEP_OUTPUT_CHARS in all."""


class Verdict(CheckedRecord):
    """The result of the test of one image, bound to its digest."""

    format: Annotated[int, Field(ge=VERDICT_FORMAT, le=VERDICT_FORMAT)] = VERDICT_FORMAT
    name: ShortLine
    version: ShortLine
    digest: Digest
    build_key: ShortLine
    """The build key of the image; empty if it has none."""
    signer: ShortLine = ""
    """The signer whose signature counted at the test; empty without one."""
    sbom: Digest | None = None
    """The digest of sbom.cdx.json; None for an image without one."""
    vulnerabilities: VulnerabilityCount | None = None
    """None without data."""
    who: ShortLine
    began: RecordTime
    ended: RecordTime
    steps: Annotated[list[TrialStep], Field(max_length=MAX_STEPS)]

    def failures(self) -> list[TrialStep]:
        return [step for step in self.steps if step.outcome == "failed"]

    def find_missing(self, profile: Profile) -> list[str]:
        """Return the steps that a test of this profile has, and that did not pass, in words."""
        done = {(step.name, step.run) for step in self.steps if step.outcome == "passed"}
        done |= {(step.name, step.run) for step in self.steps if step.outcome == "absent" and step.name == DPKG}
        return [
            f"{name}{' after the second start' if run == SECOND_RUN else ''}"
            for name, run in required_steps(profile)
            if (name, run) not in done
        ]

    def has_passed(self, profile: Profile) -> bool:
        return not self.failures() and not self.find_missing(profile)

    def text(self) -> str:
        """Return the content of the file."""
        return record_text(self)


def required_steps(profile: Profile) -> list[tuple[str, int]]:
    """Return the steps of a test of the profile and their runs, in order."""
    gpu = [GPU] if asks_for_gpu(profile.resources) else []
    each = [START, SSH, SFTP, DPKG, *gpu, *(check_step(check.name) for check in profile.checks)]
    first, second = [(name, FIRST_RUN) for name in each], [(name, SECOND_RUN) for name in each]
    return [*first, (STOP, FIRST_RUN), *second]


def check_step(name: str) -> str:
    """Return the name of the step that runs the check `name`."""
    return f"check {name}"


def read_verdict(image: Image) -> Verdict | None:
    """Return the verdict on this image; None if it has none. DamagedVerdictError for one that must not count."""
    path = image.directory / VERDICT_FILE
    try:
        text = read_owned_text(path, MAX_VERDICT_BYTES)
    except FileNotFoundError:
        return None
    except UnfitFileError as error:
        raise _damaged_verdict(f"{path} {error.strerror}", image) from error
    except OSError as error:
        raise _damaged_verdict(f"{path} cannot be read: {error.strerror}", image) from error
    try:
        verdict = parse_checked_record(Verdict, text)
    except ValueError as error:
        raise _damaged_verdict(f"{path} is damaged: {error}", image) from error
    if (verdict.name, verdict.version) != (image.name, image.version):
        raise _damaged_verdict(f"{path} is about {verdict.name}@{verdict.version}", image)
    if verdict.digest != image.digest:
        raise _damaged_verdict(f"{path} is about another image: its digest differs", image)
    return verdict


def require_passed(image: Image) -> None:
    """Return if the image has passed its test. Raises UntestedImageError, and DamagedVerdictError."""
    label = f"{image.name}@{image.version}"
    verdict = read_verdict(image)
    if verdict is None:
        raise UntestedImageError(f"{label} was not tested", hint=_hint(image))
    if not verdict.has_passed(image.profile):
        failed = [step.name for step in verdict.failures()] or verdict.find_missing(image.profile)
        raise UntestedImageError(f"{label} has not passed its test: {', '.join(failed)}"[:300], hint=_hint(image))


def write_verdict(image: Image, verdict: Verdict) -> None:
    """Put the verdict beside the image, on disk, instead of an earlier one. StoreError, with nothing changed."""
    replace_text(image.directory / VERDICT_FILE, verdict.text(), like=image.directory / "image.json")


def _hint(image: Image) -> str:
    return (
        f"`berth profile test {image.name}@{image.version}` tests it in a session; --without-checks promotes it as it "
        "is, which the history keeps"
    )


def _damaged_verdict(message: str, image: Image) -> DamagedVerdictError:
    shown = "".join(char if char.isprintable() else "?" for char in message)[:400]
    return DamagedVerdictError(shown, hint=_hint(image))
