"""Services that a user has added to a session: how the session reports them, and how the controller defines them."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from profiles.recipe.service import Service, format_services
from tests.component.job.test_web_door import PAGE, SOCKETS, opened
from tests.fakes.session_container import OWNER, SERVE, SessionContainer
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SessionContainer]:
    """A session whose profile declares `page`."""
    made = SessionContainer(tmp_path_factory.mktemp("session"))
    made.prepare(PAGE)
    with made.running():
        yield made


@pytest.fixture
def key(session: SessionContainer) -> Path:
    """A key with a certificate for this session."""
    return session.certificate(f"web:{session.id}", options=["source-address=127.0.0.1/32"])


def test_service_that_the_controller_knows_is_open_without_berth(session: SessionContainer, key: Path) -> None:
    """The controller has read the user's own file, so no command line has to send the definition."""
    known = session.files / "own_services"
    yours = Service(name="yours", command=SERVE, socket="yours.sock")
    known.write_text(format_services([yours, PAGE]))
    try:
        with opened(session, key, "start", "yours") as report:
            assert report == ["socket yours.sock", "reconnect", "state starting", "state ready"]
        assert session.ask(key, f"{SOCKETS}/yours.sock").startswith("HTTP/1.1 200 ")
    finally:
        known.unlink()
        shutil.rmtree(session.node / "services/page", ignore_errors=True)


def test_list_of_the_users_services_is_left_for_the_job(session: SessionContainer) -> None:
    folder = session.base / "home/.config/berth/services.d"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text("services: []\n")
    try:
        (session.node / "look").touch()
        session.run(session.base / "owner", "kill -USR1 1", login=OWNER)
        listed = session.node / "listed"
        wait_for(listed.exists, what="the list")
        assert listed.read_text() == "berth-services 1\nfile 13 mine.yaml\nservices: []\n"
    finally:
        shutil.rmtree(session.base / "home/.config")
