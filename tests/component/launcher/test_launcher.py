"""The launcher as the controller meets it: a real process at the other end of a socket, with an sbatch made for the
occasion."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pwd
import signal
import stat
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.controller.launcher_client.errors import LauncherError
from broker.job.bundle import digest, session_script
from broker.launcher.child import Settings, run_request
from broker.launcher.request import RequestContext, VerbError, checked_user, own_directory
from broker.names import new_id
from broker.volumes.files import file_lock
from tests.component.launcher.launcher_process import ID, ROOT, USER, running

if TYPE_CHECKING:
    from pathlib import Path

    from broker.controller.launcher_client.client import LauncherClient


def submit(
    launcher: LauncherClient,
    *,
    options: list[str] | None = None,
    limit: float = 10,
    shown_name: str = "",
    beside: bool = False,
) -> asyncio.Future[int]:
    files = {"job.env": "A=1\n", "manifest.json": "{}", "authorized_keys": "", "host_certificate": "x"}
    call = launcher.submit(
        USER, ID, 1, options=options or [], files=files, limit=limit, shown_name=shown_name, beside=beside
    )
    return asyncio.ensure_future(call)


def test_a_child_whose_launcher_has_gone_already_does_nothing(storage: Path) -> None:
    request = {"verb": "prepare", "user": USER, "session": ID, "driver": "auto"}
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        nobody = os.getpid()  # not its parent
        run_request(Settings(f"{storage}/{{user}}", "sbatch", "/session.sh", 0), request, write_end, nobody)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answer:
        assert answer.read() == b""
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
    assert not (storage / USER).exists()


def test_prepare_makes_private_directories_of_the_users_own_and_one_host_key(storage: Path) -> None:
    async def scenario() -> None:
        async with running(storage) as (launcher, _):
            key = (await launcher.prepare(USER, ID, "auto")).host_key
            assert key.startswith("ssh-ed25519 ")
            assert (await launcher.prepare(USER, ID, "auto")).host_key == key
        uid = pwd.getpwnam(USER).pw_uid
        for directory in ("", "sessions", f"sessions/{ID}", f"sessions/{ID}/run", "layers", "trash"):
            status = (storage / USER / directory).stat()
            assert (status.st_uid, stat.S_IMODE(status.st_mode)) == (uid, 0o700)
        private = storage / USER / f"sessions/{ID}/run/ssh_host_ed25519_key"
        assert stat.S_IMODE(private.stat().st_mode) == 0o600

    asyncio.run(scenario())


def test_submit_gives_sbatch_a_fixed_form_and_an_environment_made_from_nothing(storage: Path) -> None:
    async def scenario() -> None:
        seen = storage / "seen"
        seen.touch()
        seen.chmod(0o666)
        script = (
            f"for a; do echo \"$a\"; done >{seen}; env | sort >>{seen}; id -u >>{seen}; umask >>{seen}; echo '42;c'"
        )
        async with running(storage, script, SBATCH_PARTITION="evil", SLURM_JOB_ID="1") as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            assert await submit(launcher, options=["--mem=8G"]) == 42
        lines = seen.read_text().splitlines()
        session = f"{storage}/{USER}/sessions/{ID}"
        assert lines[-2:] == [str(pwd.getpwnam(USER).pw_uid), "0077"]
        at = lines.index(session)
        assert lines[at - 1 : at + 2] == ["/session.sh", session, "1"]
        assert "--mem=8G" in lines
        assert f"--job-name=berth-{ID}" in lines
        assert f"--comment=berth:{ID}:1" in lines
        async with running(storage, script) as (launcher, _):
            assert await submit(launcher, shown_name="dev") == 42
            assert f"--comment=berth:{ID}:1 dev" in seen.read_text().splitlines()
            for name in ("x y", "dev\n", "Dev", "--wrap=x"):
                with pytest.raises(LauncherError, match="session name"):
                    await submit(launcher, shown_name=name)
        assert "--dependency=singleton" in lines
        async with running(storage, script) as (launcher, _):
            assert await submit(launcher, beside=True) == 42
            assert "--dependency=singleton" not in seen.read_text().splitlines()
        assert not [line for line in lines if "evil" in line or line.startswith("SLURM_JOB_ID")]

    asyncio.run(scenario())


def test_joined_script_is_submitted_and_its_digest_is_logged(storage: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        run = storage / USER / "sessions" / ID / "run"
        script = f'for a; do case $a in *.sh) echo "$a"; cat "$a"; esac; done >{storage}/seen; echo 42'
        (storage / "seen").touch()
        (storage / "seen").chmod(0o666)
        with (tmp_path / "log").open("wb") as log:
            async with running(storage, script, script="", log=log) as (launcher, _):
                await launcher.prepare(USER, ID, "auto")
                inodes = []
                for content in (None, b"of an earlier version", None):
                    if content is not None:
                        (run / "session.sh").write_bytes(content)
                    await submit(launcher)
                    assert (storage / "seen").read_bytes() == f"{run}/session.sh\n".encode() + session_script()
                    inodes.append((run / "session.sh").stat().st_ino)
                assert inodes[1] == inodes[2], "the same version is not written again"
                assert stat.S_IMODE((run / "session.sh").stat().st_mode) == 0o600
        said = (tmp_path / "log").read_text()
        assert said == f"launcher: job scripts session.sh={digest('session.sh')} batch.sh={digest('batch.sh')}\n"

    asyncio.run(scenario())


def test_program_of_an_earlier_version_goes_once_no_job_uses_it(storage: Path) -> None:
    async def scenario() -> None:
        run = storage / USER / "sessions" / ID / "run"
        async with running(storage, "echo 42") as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            (run / "copying.py").write_text("of an earlier version")
            with file_lock(run / "lock"):
                (run / "lock").chmod(0o666)  # as the user's own, whoever runs the tests
                await submit(launcher)
                assert (run / "copying.py").exists(), "the job that runs is of that version"
            await submit(launcher)
            assert not (run / "copying.py").exists()
            assert (run / "copying.pyz").exists()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        ("echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1", "refused"),
        (
            "echo 'sbatch: error: Batch job submission failed: Socket timed out on send/recv operation' >&2; exit 1",
            "unclear",
        ),
        ("echo 'Unable to contact slurm controller (connect failure)' >&2; exit 1", "unclear"),
        ("exec sleep 60", "unclear"),
    ],
)
def test_what_sbatch_says_is_a_refusal_or_unclear(storage: Path, script: str, kind: str) -> None:
    async def scenario() -> None:
        async with running(storage, script) as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            with pytest.raises(LauncherError) as failure:
                await submit(launcher, limit=1)
            assert failure.value.kind == kind
            assert failure.value.unclear == (kind == "unclear")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "options",
    [
        ["--uid=0"],
        ["--wrap=id"],
        ["--output=/etc/passwd"],
        ["/bin/sh"],
        ["--mem=1\n--uid=0"],
        ["--comment=x"],
        ["--"],
        [7],
    ],
)
def test_options_are_checked_again_at_the_privileged_side(storage: Path, options: list[str]) -> None:
    async def scenario() -> None:
        async with running(storage, f"touch {storage}/ran") as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            with pytest.raises(LauncherError):
                await submit(launcher, options=options)
            with pytest.raises(LauncherError):
                await launcher.estimate(USER, ID, options, limit=10)
        assert not (storage / "ran").exists()

    asyncio.run(scenario())


@pytest.mark.parametrize("user", ["root", "daemon", "nobody-there", "../x", "", "a" * 40, "alice\n"])
def test_system_accounts_and_strangers_are_never_acted_for(storage: Path, user: str) -> None:
    async def scenario() -> None:
        async with running(storage) as (launcher, _):
            with pytest.raises(LauncherError):
                await launcher.prepare(user, ID, "auto")

    asyncio.run(scenario())
    assert [entry.name for entry in storage.iterdir()] == ["sbatch"]


@settings(max_examples=200, deadline=None)
@given(st.text() | st.sampled_from(["../../etc", ID + "/..", "", ID.upper(), ID[:-1], ID + "0", ID[:-1] + "\0"]))
def test_no_text_but_an_id_names_a_session(text: str) -> None:
    place = RequestContext(pwd.getpwuid(os.getuid()), "/shared/{user}", "sbatch", "/session.sh")
    if text == ID or (len(text) == 26 and text.isascii() and text.isalnum() and text.islower()):
        return
    with pytest.raises(VerbError):
        place.session(text)


@given(st.text(max_size=40))
def test_a_checked_user_has_the_uid_of_a_person(name: str) -> None:
    with contextlib.suppress(VerbError):
        assert checked_user(name, 1000).pw_uid >= 1000


def test_new_ids_are_accepted_sorted_and_different() -> None:
    place = RequestContext(pwd.getpwuid(os.getuid()), "/shared/{user}", "sbatch", "/session.sh")
    ids = [new_id(now) for now in (1.0, 2.0, 2000000000.0)] + [new_id()]
    assert len(set(ids)) == 4
    assert ids[:2] == sorted(ids[:2])
    for session_id in ids:
        assert place.session(session_id).name == session_id


@pytest.mark.skipif(not ROOT, reason="acting for others is what root does; everybody else acts for themselves only")
def test_a_directory_that_is_not_the_users_own_is_refused(storage: Path) -> None:
    async def scenario() -> None:
        (storage / USER).mkdir(mode=0o700)  # root's
        async with running(storage) as (launcher, _):
            with pytest.raises(LauncherError) as failure:
                await launcher.prepare(USER, ID, "auto")
            assert failure.value.kind == "files"

    asyncio.run(scenario())


@pytest.mark.parametrize(("mode", "accepted"), [(0o700, True), (0o755, True), (0o711, True), (0o775, False)])
def test_directory_of_the_users_own_is_closed_unless_others_may_write_to_it(
    tmp_path: Path, mode: int, accepted: bool
) -> None:
    directory = tmp_path / "berth"
    directory.mkdir()
    directory.chmod(mode)
    with contextlib.nullcontext() if accepted else pytest.raises(VerbError, match=f"run `chmod 700 {directory}`"):
        own_directory(directory, os.getuid())
    assert stat.S_IMODE(directory.stat().st_mode) == (0o700 if accepted else mode)


def test_a_link_in_the_place_of_a_directory_is_refused(storage: Path) -> None:
    async def scenario() -> None:
        (storage / "elsewhere").mkdir()
        (storage / USER).symlink_to(storage / "elsewhere")
        async with running(storage) as (launcher, _):
            with pytest.raises(LauncherError):
                await launcher.prepare(USER, ID, "auto")
        assert list((storage / "elsewhere").iterdir()) == []

    asyncio.run(scenario())


def test_files_are_replaced_whole_and_only_those_that_may_be(storage: Path) -> None:
    async def scenario() -> None:
        async with running(storage) as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            await launcher.install(USER, ID, {"authorized_keys": "one\n"})
            await launcher.install(USER, ID, {"authorized_keys": "two\n"})
            with pytest.raises(LauncherError):
                await launcher.install(USER, ID, {"../../x": "no"})
        run = storage / USER / f"sessions/{ID}/run"
        assert (run / "authorized_keys").read_text() == "two\n"
        assert {entry.name for entry in run.iterdir()} == {
            "authorized_keys",
            "ssh_host_ed25519_key",
            "ssh_host_ed25519_key.pub",
        }

    asyncio.run(scenario())


def test_manifests_are_listed_and_removed_sessions_are_gone(storage: Path) -> None:
    async def scenario() -> None:
        async with running(storage) as (launcher, _):
            assert await launcher.manifests(USER) == {}
            await launcher.prepare(USER, ID, "auto")
            await launcher.install(USER, ID, {"manifest.json": json.dumps({"id": ID})})
            assert json.loads((await launcher.manifests(USER))[ID]) == {"id": ID}
            volumes = json.loads((storage / USER / f"sessions/{ID}/volumes.json").read_text("utf-8"))
            hidden = storage / USER / f"layers/{volumes['home']['top']}/tree/hidden"
            hidden.mkdir()
            (hidden / "file").touch()
            hidden.chmod(0)
            user = pwd.getpwnam(USER)
            os.chown(hidden, user.pw_uid, user.pw_gid)
            await launcher.purge(USER, ID)
            await launcher.purge(USER, ID)
            assert not (storage / USER / f"sessions/{ID}").exists()
            assert list((storage / USER / "layers").iterdir()) == []

    asyncio.run(scenario())


def test_a_slow_request_holds_up_nobody(storage: Path) -> None:
    async def scenario() -> None:
        async with running(storage, "exec sleep 20") as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            slow = submit(launcher, limit=15)
            for _ in range(10):
                await launcher.manifests(USER)
            assert not slow.done()
            slow.cancel()

    asyncio.run(scenario())


def test_when_the_launcher_dies_every_waiting_call_ends_as_unclear(storage: Path) -> None:
    async def scenario() -> None:
        async with running(storage, f"touch {storage}/began/x; exec sleep 20") as (launcher, pid):
            (storage / "began").mkdir()
            (storage / "began").chmod(0o777)
            await launcher.prepare(USER, ID, "auto")
            waiting = submit(launcher, limit=15)
            while not list((storage / "began").iterdir()):  # noqa: ASYNC110 - no event tells of a file
                await asyncio.sleep(0.01)
            os.kill(pid, signal.SIGKILL)
            with pytest.raises(LauncherError) as failure:
                await waiting
            assert failure.value.unclear
            await launcher.gone.wait()
            with pytest.raises(LauncherError):
                await launcher.keys(USER)

    asyncio.run(scenario())


@pytest.mark.parametrize("point", ["launcher.submit-begun", "launcher.submit-done"])
def test_a_crash_around_sbatch_leaves_the_submission_unclear(storage: Path, point: str) -> None:
    async def scenario() -> None:
        async with running(storage, "echo 42", BERTH_CRASH_AT=point) as (launcher, _):
            await launcher.prepare(USER, ID, "auto")
            with pytest.raises(LauncherError) as failure:
                await submit(launcher)
            assert failure.value.unclear
            await launcher.gone.wait()

    asyncio.run(scenario())
