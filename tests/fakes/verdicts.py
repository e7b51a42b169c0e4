"""Verdicts on images that no session has tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

from profiles.image.verdict_file import TrialStep, Verdict, required_steps, write_verdict

if TYPE_CHECKING:
    from profiles.image.store import Image


def make_verdict(image: Image, *, failed: str = "", digest: str = "") -> Verdict:
    """The verdict of a test that passed, or failed in the step `failed`; on another image with `digest`."""
    steps = [
        TrialStep.model_validate(
            {"name": name, "run": run, "outcome": "failed" if name == failed else "passed", "seconds": 1.0}
        )
        for name, run in required_steps(image.profile)
    ]
    return Verdict(
        name=image.name,
        version=image.version,
        digest=digest or image.digest,
        build_key=image.build_key,
        who="carol",
        began=1.0,
        ended=2.0,
        steps=steps,
    )


def pass_test(image: Image, *, failed: str = "", digest: str = "") -> None:
    """Put that verdict beside the image."""
    write_verdict(image, make_verdict(image, failed=failed, digest=digest))
