"""Reports of long work on a session's files: what each kind of work counts, and what the command line reads."""

from __future__ import annotations

import gc
import io
import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from broker.launcher import volume_verbs
from broker.launcher.arguments import (
    CopyArguments,
    PromoteArguments,
    SizeArguments,
    SnapshotsArguments,
    VerifyArguments,
)
from broker.launcher.request import RequestContext
from broker.names import new_id
from broker.volumes import copy_program, garbage, inspection, operations, progress, record, sizes, verification
from broker.volumes.image import ImageFiles
from broker.volumes.live_copy import copy_tree
from broker.volumes.operations import ImageVersion, SnapshotNote
from broker.volumes.progress import Amounts, count, expect, parse_progress, progress_path, report_progress
from broker.volumes.storage import Storage
from tests.job_scripts import SESSION

if TYPE_CHECKING:
    from collections.abc import Callable

IMAGE = ImageVersion("base", "1", "sha256:" + "1" * 64)
BYTES = 3 * 2**20


@pytest.fixture
def reports(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts of all reports that were written: one for each count."""
    texts: list[str] = []
    monkeypatch.setattr(progress, "WRITE_INTERVAL_S", 0)

    write = progress.ProgressReport._write

    def written(report: progress.ProgressReport) -> None:
        write(report)
        texts.append(Path(report._path).read_text())

    monkeypatch.setattr(progress.ProgressReport, "_write", written)
    return texts


def last(reports: list[str]) -> Amounts:
    amounts = parse_progress(reports[-1], float(reports[-1].split()[-1]))
    assert amounts is not None
    return amounts


@pytest.fixture
def session(tmp_path: Path) -> tuple[Storage, str]:
    """A session with a snapshot of three files, and a change since then."""
    storage, session_id = Storage(tmp_path / "storage"), new_id()
    storage.root.mkdir(mode=0o700)
    storage.make()
    (storage.session(session_id) / "run").mkdir(parents=True)
    operations.create_volumes(storage, session_id, "overlay")
    top = storage.layers.tree(record.load_record(storage.session(session_id)).home.top)
    for name in ("one", "two", "three"):
        (top / name).write_bytes(os.urandom(BYTES))
    operations.snapshot(storage, session_id, new_id(), IMAGE, SnapshotNote("", "", automatic=False))
    top = storage.layers.tree(record.load_record(storage.session(session_id)).home.top)
    (top / "new").write_text("new")
    return storage, session_id


WORK: dict[str, tuple[Callable[[Storage, str], object], int, int]] = {
    "verify": (verification.verify, 3, 3 * BYTES),
    "size": (sizes.session_size, 4, 0),
    "purge": (garbage.purge_session, 4, 0),
    "diff": (
        lambda storage, session: inspection.diff(
            storage, session, 1, base_packages="", image=ImageFiles("/nowhere", 0), content=True
        ),
        1,
        0,
    ),
}
"""The work, and the files and bytes that it counts at least."""


@pytest.mark.parametrize("name", WORK)
def test_each_long_work_counts(session: tuple[Storage, str], reports: list[str], name: str) -> None:
    work, files, size = WORK[name]
    storage, session_id = session
    with report_progress(progress_path(storage.root, session_id)):
        work(storage, session_id)
        assert Path(progress_path(storage.root, session_id)).exists()
    amounts = last(reports)
    assert amounts.files >= files
    assert amounts.done_bytes >= size
    assert not list((storage.root / progress.FOLDER).iterdir())


def test_copy_program_reports_files_and_expected_bytes(
    tmp_path: Path, reports: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, file = tmp_path / "source", tmp_path / "progress/id"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(40 * 2**20))
    (source / "small").write_bytes(b"small")
    words = ["--drain", f"--progress={file}", str(source), str(tmp_path / "layer"), ""]
    monkeypatch.setattr(sys, "argv", ["copying.pyz", *words])
    monkeypatch.setattr(sys, "stdin", io.StringIO("all\nall\n"))
    monkeypatch.setattr(gc, "disable", lambda: None)
    before = os.umask(0o022)
    try:
        assert copy_program.main() == 0
    finally:
        os.umask(before)
    amounts = last(reports)
    assert amounts.files == 2
    assert amounts.done_bytes >= 40 * 2**20 + 5
    assert amounts.expected_bytes >= 40 * 2**20
    assert not file.exists()
    if len(reports) > 2:  # without shared blocks: also within the large file
        halfway = [int(text.split()[1]) for text in reports]
        assert any(0 < done < 40 * 2**20 for done in halfway)


def test_report_harms_nothing_when_it_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "WRITE_INTERVAL_S", 0)
    (tmp_path / "file").touch()
    (tmp_path / "source").mkdir()
    (tmp_path / "source/a").write_text("a")
    with report_progress(str(tmp_path / "file/below")):
        copy_tree(str(tmp_path / "source"), str(tmp_path / "layer"))
    assert (tmp_path / "layer/tree/a").read_text() == "a"


def test_nothing_is_counted_outside_of_a_report(reports: list[str]) -> None:
    expect(1)
    count(1, 1)
    with report_progress(""):
        count(1, 1)
    assert not reports


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("3 200 1000 100\n", Amounts(3, 200, 1000)),
        ("3 200 1000 20\n", None),
        ("3 200 1000 190\n", None),
        ("-3 200 1000 100\n", None),
        ("3 200 1000\n", None),
        ("3 200 1000 nan\n", None),
        ("", None),
    ],
)
def test_stale_and_damaged_reports_count_for_nothing(text: str, amounts: Amounts | None) -> None:
    assert parse_progress(text, 110.0) == amounts


def test_long_verbs_report_under_the_session_whose_files_they_read(tmp_path: Path) -> None:
    session, other = new_id(), new_id()
    context = RequestContext(pwd.getpwuid(os.getuid()), str(tmp_path), "sbatch", "session.sh")
    path = volume_verbs._progress_path
    copy = CopyArguments(
        session=session, operation=new_id(), job_id=1, profile="base", version="1", digest=IMAGE.digest
    )
    promote = PromoteArguments(session=session, operation=new_id(), source=other, job="7", files={})
    for arguments in (SizeArguments(session=session), VerifyArguments(session=session), copy):
        assert path(context, arguments) == progress_path(tmp_path, session)
    assert path(context, promote) == progress_path(tmp_path, other)
    assert path(context, SnapshotsArguments(session=session)) == ""


def test_job_tells_its_copy_where_to_report(tmp_path: Path) -> None:
    """It writes its report into the user's storage, under the session's id."""
    session = tmp_path / "sessions/01session"
    (session / "run").mkdir(parents=True)
    (session / "run/copying.pyz").write_text(f"import sys; open('{tmp_path}/words', 'w').write(' '.join(sys.argv[1:]))")
    (tmp_path / "node/run").mkdir(parents=True)
    code = (
        f"source {SESSION}; NODE_DIR={tmp_path}/node DIRECTORY={session} LAYERS={tmp_path}/layers BERTH_ROOT=''; "
        "CONTAINER=$$; copy_pairs source target previous"
    )
    subprocess.run(["bash", "-c", code], capture_output=True, check=False, timeout=60)
    assert (
        tmp_path / "words"
    ).read_text() == f"--drain --progress={tmp_path}/progress/01session source target previous"
