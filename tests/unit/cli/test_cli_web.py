"""`berth portal`, `berth browsers` and `berth open` by web access: links are printed, opened and kept secret."""

from __future__ import annotations

import json
import re
import stat
import time
from typing import TYPE_CHECKING

import pytest

from broker.cli.browser import REDIRECT_NAME
from broker.errors import BerthError
from broker.schema.services import SessionServices, SessionServiceView
from broker.schema.web import BrowserList, BrowserView, LinkAnswer, LogoutAnswer
from tests.fakes.command_line import run
from tests.fakes.controller import ready, view

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fakes.controller import ScriptedController

ID = "01j9z7x5c3v1b8n6m4k2h0gfds"
SECRET = "s" * 43
PAGE = "https://portal.apps.example.org/login"


def browser() -> BrowserView:
    now = time.time()
    return BrowserView(
        id=ID, browser="Firefox", address="192.0.2.1", created_at=now, used_at=now, expires_at=now + 3600
    )


@pytest.fixture
def site(controller: ScriptedController, monkeypatch: pytest.MonkeyPatch) -> ScriptedController:
    """A site with web access, and a machine without a display."""
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    controller.site = controller.site.model_copy(update={"portal_url": "https://portal.apps.example.org"})
    link = LinkAnswer(url=f"{PAGE}#{SECRET}", login_url=PAGE, code="ABCDE-FGHJK", expires_at=time.time() + 60)
    controller.answers["POST /v1/web/links"] = link
    controller.answers["GET /v1/web/browsers"] = BrowserList(browsers=[browser()])
    return controller


def test_portal_prints_link_and_code(site: ScriptedController) -> None:
    result = run("portal")
    assert result.stdout == f"{PAGE}#{SECRET}\n"
    assert f"or type the code ABCDE-FGHJK at {PAGE}\n" in result.stderr
    assert re.search(r"within (59|60) s; keep it to yourself\n", result.stderr)
    assert site.asked[-1] == ("POST", "/v1/web/links", {"target": None})
    assert json.loads(run("portal", "--json").stdout)["code"] == "ABCDE-FGHJK"


def test_guest_gets_a_link_to_the_shared_service_alone(site: ScriptedController) -> None:
    result = run("open", "alice.dev", "board")
    assert result.stdout == f"{PAGE}#{SECRET}\n"
    assert site.asked[-1] == ("POST", "/v1/web/links", {"target": {"session": "alice.dev", "service": "board"}})
    assert not any("alice.dev" in path for _, path, _ in site.asked)
    for words in (("vscode",), ("board", "--local"), ("zed", "--print")):
        refused = run("open", "alice.dev", *words)
        assert (refused.exit_code, "shared services" in refused.stderr) == (4, True)
    assert run("open", "alice.dev", "Board").exit_code == 2


def test_link_to_a_service_of_the_profile_does_not_wait_for_the_session(site: ScriptedController) -> None:
    """The session is asked after the link is printed; what it answers, or that it does not, takes nothing back."""
    site.sessions["dev"] = ready()
    site.answers["GET /v1/sessions/dev/services"] = SessionServices(services=[SessionServiceView(name="terminal")])
    site.failures["GET /v1/keys"] = site.failures["POST /v1/resolve"] = BerthError("no way in")
    result = run("open", "dev", "terminal")
    assert (result.exit_code, result.stdout) == (0, f"{PAGE}#{SECRET}\n")
    paths = [path for _, path, _ in site.asked]
    assert paths[:4] == ["/v1/site", "/v1/sessions/dev", "/v1/sessions/dev/services", "/v1/web/links"]
    assert len(paths) > 4


@pytest.mark.parametrize("known", ["added", "unknown", "refused", "stopped"])
def test_link_to_any_other_service_waits_for_the_session(site: ScriptedController, known: str) -> None:
    site.sessions["dev"] = view() if known == "stopped" else ready()
    name = "terminal" if known in {"added", "stopped"} else "other"
    service = SessionServiceView(name=name, added=known == "added")
    site.answers["GET /v1/sessions/dev/services"] = SessionServices(services=[service])
    if known == "refused":
        site.failures["GET /v1/sessions/dev/services"] = BerthError("its image is gone")
    site.failures["GET /v1/keys"] = site.failures["POST /v1/resolve"] = BerthError("no way in")
    result = run("open", "dev", "terminal")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no way in" in result.stderr
    assert "/v1/web/links" not in [path for _, path, _ in site.asked]


@pytest.mark.usefixtures("site")
def test_browser_opens_a_private_file_and_no_argument_has_the_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    opener, runtime = tmp_path / "bin/xdg-open", tmp_path / "runtime"
    for directory in (opener.parent, runtime):
        directory.mkdir()
    opener.write_text(f'#!/bin/sh\necho "$@" >{tmp_path}/opened\n')
    opener.chmod(0o755)
    monkeypatch.setenv("PATH", f"{opener.parent}:/usr/bin:/bin")
    monkeypatch.setenv("DISPLAY", ":0")
    assert run("portal").exit_code == 0
    assert not (tmp_path / "opened").exists()  # without a private directory, the link is printed only
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    page = runtime / REDIRECT_NAME
    page.write_text("of the last login")
    page.chmod(0o644)
    assert run("portal", "--print").exit_code == 0
    assert not (tmp_path / "opened").exists()
    assert run("portal").exit_code == 0
    assert (tmp_path / "opened").read_text() == f"{page.as_uri()}\n"
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert f"url={PAGE}#{SECRET}" in page.read_text()


@pytest.mark.parametrize(("mode", "where"), [("personal", "personal mode"), ("site", "this site")])
def test_without_web_access_the_remedy_is_named(controller: ScriptedController, mode: str, where: str) -> None:
    controller.site = controller.site.model_copy(update={"mode": mode})
    for words, remedy in (
        (("portal",), "`berth open NAME SERVICE --local`"),
        (("open", "dev", "jupyter"), "`berth open dev jupyter --local`"),
    ):
        result = run(*words)
        assert result.exit_code == 4
        assert f"{where} has no web access\n" in result.stderr
        assert remedy in result.stderr
    assert [path for _, path, _ in controller.asked] == ["/v1/site"] * 2


def test_browsers_are_listed_and_logged_out(site: ScriptedController) -> None:
    listed = run("browsers").stdout
    assert ID in listed
    assert "Firefox" in listed
    assert json.loads(run("browsers", "--json").stdout)["browsers"][0]["address"] == "192.0.2.1"
    site.answers[f"DELETE /v1/web/browsers/{ID}"] = LogoutAnswer(ended=[browser()], closed=True)
    result = run("browsers", "--logout", ID)
    assert (result.stdout, result.stderr) == (f"{ID}\n", "1 browser logged out; all connections are closed\n")
    site.answers["DELETE /v1/web/browsers"] = LogoutAnswer(ended=[browser(), browser()], closed=False)
    result = run("browsers", "--logout-all")
    assert result.stderr == "2 browsers logged out; berth-web has not yet closed the connections\n"
    assert json.loads(run("browsers", "--logout-all", "--json").stdout)["closed"] is False
    site.answers["DELETE /v1/web/browsers"] = LogoutAnswer(ended=[], closed=True)
    assert run("browsers", "--logout-all").stderr == "0 browsers logged out\n"
    assert run("browsers", "--logout-all", "--logout", ID).exit_code == 2
    site.answers["GET /v1/web/browsers"] = BrowserList(browsers=[])
    assert "`berth portal` logs one in" in run("browsers").stderr
