"""The test of a version in a real session: its steps, and the verdict."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

import contextlib
import signal
import time
from functools import partial
from typing import TYPE_CHECKING

from broker.cli import output
from broker.cli.errors import InterruptedWaitError
from broker.cli.trial_session import SHORT_LIMIT_S, CommandEnd, TrialSession, trial_lock
from broker.errors import BerthError
from broker.format import escape_controls

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from broker.cli.context import Invocation
    from profiles.image.store import Image
    from profiles.image.verdict_file import TrialStep, Verdict
    from profiles.recipe.check import ProfileCheck

SAID = "berth-test-answers"
DPKG_SCRIPT = "command -v dpkg >/dev/null || { echo none; exit 0; }; dpkg --audit"
GPU_SCRIPT = (
    "env | grep -E '^(SLURM_(JOB_GPUS|GPUS_ON_NODE|SHARDS_ON_NODE)|ZE_AFFINITY_MASK|CUDA_VISIBLE_DEVICES)=.'; "
    '[ "${SLURM_GPUS_ON_NODE:-0}${SLURM_SHARDS_ON_NODE:-0}" != 00 ]'
)
LOG_TAIL_BYTES = 4096
MESSAGE_CHARS = 200


def run_trial(invocation: Invocation, image: Image, owner: str, *, timeout: float | None) -> Verdict:
    """Test an image in a session of the caller's, delete that session, and return the verdict.

    An earlier test's session that was left is deleted first. `timeout` is in seconds, for each wait. Raises BerthError,
    without a verdict, if the test itself could not be run, and InterruptedWaitError; the session is deleted then, too.
    """
    session = TrialSession(invocation, image, owner, timeout=timeout)
    with trial_lock(session.name), _termination_as_interrupt():
        if session.remove():
            _note(invocation, f"deleted {session.name}, which an interrupted test had left")
        began = time.time()
        trial = _Trial(invocation, image, session)
        try:
            trial.run()
        except (KeyboardInterrupt, InterruptedWaitError) as error:
            _remove_after_failure(session)
            raise InterruptedWaitError(f"interrupted; {image.name}@{image.version} has no new verdict") from error
        except BaseException:
            _remove_after_failure(session)
            raise
        session.remove()
    return trial.verdict(began, owner)


def _remove_after_failure(session: TrialSession) -> None:
    """Delete the session; say so if that is not possible now."""
    try:
        session.remove()
    except BerthError as error:
        output.print_note(f"{session.name} was left: {error.message}; the next test of this image deletes it")


class _Trial:
    """One test: it collects the outcome of each step."""

    def __init__(self, invocation: Invocation, image: Image, session: TrialSession) -> None:
        self._invocation = invocation
        self._image = image
        self._session = session
        self._steps: list[TrialStep] = []

    def run(self) -> None:
        """Run the steps; after a failed one, the second start is left out."""
        from profiles.image.verdict_file import FIRST_RUN, SECOND_RUN, STOP

        if self._run_once(FIRST_RUN):
            self._record(STOP, FIRST_RUN, self._stop)
            self._run_once(SECOND_RUN)

    def verdict(self, began: float, owner: str) -> Verdict:
        """Return the verdict, with what is known of the image now."""
        from broker.cli.channels import author
        from broker.cli.signatures import assess_signature
        from broker.cli.verdicts import known_vulnerabilities, sbom_digest
        from profiles.image.verdict_file import Verdict

        image = self._image
        return Verdict(
            name=image.name,
            version=image.version,
            digest=image.digest,
            build_key=image.build_key,
            signer=assess_signature(self._invocation, image, owner).signer,
            sbom=sbom_digest(image),
            vulnerabilities=known_vulnerabilities(self._invocation, image),
            who=author("").who,
            began=began,
            ended=time.time(),
            steps=self._steps,
        )

    def _run_once(self, run: int) -> bool:
        """Start the session and run the steps in it. Return whether all passed."""
        from profiles.image.verdict_file import DPKG, GPU, SFTP, SSH, START, check_step
        from profiles.recipe.check import asks_for_gpu

        profile, session, first = self._image.profile, self._session, len(self._steps)
        if not self._record(START, run, self._start):
            return False
        if not self._record(SSH, run, self._answer):
            return False
        self._record(SFTP, run, lambda: _outcome(session.copy()))
        self._record(DPKG, run, self._audit)
        has_gpu = not asks_for_gpu(profile.resources) or self._record(GPU, run, self._find_gpu)
        for check in profile.checks:
            self._record(check_step(check.name), run, partial(self._check, check, has_gpu=has_gpu))
        return all(step.outcome != "failed" for step in self._steps[first:])

    def _record(self, name: str, run: int, act: Callable[[], tuple[str, str, str]]) -> bool:
        """Run a step, and record its outcome. Return False if it failed."""
        from profiles.image.verdict_file import TrialStep

        began = time.monotonic()
        outcome, message, said = act()
        step = TrialStep.model_validate(
            {
                "name": name,
                "run": run,
                "outcome": outcome,
                "seconds": round(time.monotonic() - began, 2),
                "message": escape_controls(message)[:MESSAGE_CHARS],
                "output": _last_lines(said),
            }
        )
        self._steps.append(step)
        again = " after the second start" if run > 1 else ""
        because = f": {step.message}" if step.message else ""
        _note(self._invocation, f"{name}{again}: {outcome} in {step.seconds:.1f} s{because}")
        for line in step.output if outcome == "failed" else []:
            _note(self._invocation, f"  | {line}")
        return outcome != "failed"

    def _start(self) -> tuple[str, str, str]:
        try:
            view = self._session.start()
        except BerthError as error:
            if type(error) is not BerthError:
                raise
            log = ""
            with contextlib.suppress(BerthError):
                log = self._invocation.client.log(self._session.name, tail=LOG_TAIL_BYTES)
            return "failed", error.message, log
        return "passed", f"on {view.endpoint.node}" if view.endpoint else "", ""

    def _stop(self) -> tuple[str, str, str]:
        self._session.stop()
        return "passed", "", ""

    def _answer(self) -> tuple[str, str, str]:
        end = self._session.run(f"echo {SAID}")
        if end.code == 0 and SAID not in end.output:
            return "failed", "the shell did not print what it should", end.output
        return _outcome(end)

    def _audit(self) -> tuple[str, str, str]:
        end = self._session.run(DPKG_SCRIPT)
        if end.code == 0 and end.output.strip() == "none":
            return "absent", "the image has no dpkg", ""
        if end.code == 0 and end.output.strip():
            return "failed", "dpkg --audit names packages that are not installed properly", end.output
        return _outcome(end)

    def _find_gpu(self) -> tuple[str, str, str]:
        end = self._session.run(GPU_SCRIPT)
        if end.code != 0:
            return "failed", "the profile asks for a GPU, and the session has none", end.output
        return "passed", ", ".join(sorted(end.output.split())), ""

    def _check(self, check: ProfileCheck, *, has_gpu: bool) -> tuple[str, str, str]:
        if check.gpu and not has_gpu:
            return "failed", "the session has no GPU", ""
        return _outcome(self._session.run(check.command, limit_s=check.time_limit), check.time_limit)


def _outcome(end: CommandEnd, limit_s: float = SHORT_LIMIT_S) -> tuple[str, str, str]:
    if end.code == 0:
        return "passed", "", end.output
    message = f"not done after {limit_s:g} s" if end.code is None else f"exit code {end.code}"
    return "failed", message, end.output


def _last_lines(text: str) -> list[str]:
    """Return the last lines of a text, as a verdict may have them."""
    from profiles.image.verdict_file import MAX_STEP_OUTPUT_CHARS

    shown = escape_controls(text.strip("\n"), keep="\n")[-MAX_STEP_OUTPUT_CHARS:]
    return shown.split("\n") if shown else []


def _note(invocation: Invocation, text: str) -> None:
    if not invocation.json:
        output.print_note(text)


@contextlib.contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """Take SIGTERM and SIGHUP as Ctrl-C, so that a scheduled job that is stopped deletes its session."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
