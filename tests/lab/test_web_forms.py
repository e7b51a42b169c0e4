"""Every form of the portal in Chromium on the lab: the life of a session, and the logouts, without a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

from tests.lab.browser import PORTAL, log_in, new_browser
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from tests.lab.conftest import User

HOUR_S = 3600


def act(page: Page, session: str, action: str, **fields: str) -> None:
    """Fill in the form of an action and send it; `fields` are texts by the label of their field."""
    page.goto(f"{PORTAL}/sessions/{session}")
    page.locator("#actions-heading + ul").get_by_role("link", name=action, exact=True).click()
    for label, text in fields.items():
        fill(page, label, text)
    page.locator("form .primary").click()


def fill(page: Page, label: str, text: str) -> None:
    field = page.locator("form").get_by_label(label)
    tag = field.evaluate("element => element.type")
    if tag == "checkbox":
        field.check()
    elif tag == "select-one":
        field.select_option(text)
    else:
        field.fill(text)


def accepted(page: Page, session: str, action: str) -> None:
    """Wait for the page after a form that was sent."""
    page.wait_for_url(f"{PORTAL}/sessions/{session}?done={action}")
    expect(page.get_by_text("the request was accepted")).to_be_visible()


def settled(user: User, session: str) -> None:
    """Wait until the session's operation has ended well."""

    def has_ended() -> bool:
        operation = user.show(session)["operation"]
        assert operation is None or operation["status"] != "failed", operation
        return operation is None or operation["status"] == "done"

    wait_for(has_ended, what=f"the operation of {session} to end")


def test_life_of_a_session_by_forms(alice: User, other: str, new_name: Callable[[str], str], page: Page) -> None:
    """Start, snapshot, extend, roll back, clone, switch, stop, and start with another size."""
    name, copy = new_name("forms"), new_name("copy")
    log_in(page, alice, "portal")
    page.wait_for_url(f"{PORTAL}/")

    page.get_by_role("link", name="New session").last.click()
    fill(page, "Name", name)
    fill(page, "Profile", "base")
    fill(page, "Memory", "400M")
    fill(page, "Time", "2h")
    page.locator("form .primary").click()
    accepted(page, name, "start")
    view = alice.wait(name, "ready")
    assert "--mem=400M" in view["options"]

    alice.ok("ssh", name, "echo first >kept")
    act(page, name, "Take a snapshot", Label="first-state")
    accepted(page, name, "snapshot")
    wait_for(lambda: "first-state" in alice.ok("snapshots", name), what="the snapshot")
    settled(alice, name)

    act(page, name, "Extend", Add="1h")
    accepted(page, name, "extend")
    alice.until(name, lambda now: now["ends_at"] >= view["ends_at"] + HOUR_S, what="a later end")

    alice.ok("ssh", name, "echo second >kept")
    act(page, name, "Stop")
    accepted(page, name, "stop")
    alice.wait(name, "stopped")
    page.goto(f"{PORTAL}/sessions/{name}/snapshots")
    page.get_by_role("row", name="first-state").get_by_role("link", name="Roll back").click()
    page.get_by_role("button", name="Continue").click()
    expect(page.get_by_role("heading", name="This will happen")).to_be_visible()
    page.get_by_role("button", name="Roll back").click()
    accepted(page, name, "rollback")
    settled(alice, name)

    act(page, name, "Clone", **{"New name": copy, "Start it": "yes"})
    accepted(page, copy, "clone")
    alice.wait(copy, "ready")
    assert alice.ok("ssh", copy, "cat kept") == "first\n"

    act(page, name, "Switch profile", Profile=other)
    expect(page.get_by_role("table", name="Changes")).to_be_visible()
    page.get_by_role("button", name="Switch profile").click()
    accepted(page, name, "switch")
    settled(alice, name)

    act(page, name, "Start", Memory="300M")
    accepted(page, name, "start")
    view = alice.wait(name, "ready")
    assert (view["profile"], "--mem=300M" in view["options"]) == (other, True)
    assert alice.ok("ssh", name, "cat kept /opt/other") == "first\nonly in other\n"


def test_form_with_faults_changes_nothing(alice: User, page: Page) -> None:
    log_in(page, alice, "portal")
    page.wait_for_url(f"{PORTAL}/")
    before = alice.sessions()
    page.goto(f"{PORTAL}/start")
    fill(page, "Name", "No Name")
    page.locator("form .primary").click()
    expect(page.get_by_text("The form has mistakes. Nothing was changed.")).to_be_visible()
    expect(page.get_by_label("Name")).to_have_value("No Name")
    assert alice.sessions() == before


def test_browsers_log_out_one_another_and_all(alice: User, page: Page, chromium: Browser) -> None:
    alice.ok("browsers", "--logout-all")
    with new_browser(chromium) as context:
        another = context.new_page()
        for each in (page, another):
            log_in(each, alice, "portal")
            each.wait_for_url(f"{PORTAL}/")
        another.goto(f"{PORTAL}/browsers")
        cards = another.locator("li.card")
        expect(cards).to_have_count(2)
        cards.first.get_by_role("button", name="Log out").click()  # the older one: the other browser
        another.wait_for_url(f"{PORTAL}/browsers?out=yes")
        expect(cards).to_have_count(1)
        page.goto(f"{PORTAL}/browsers")
        page.wait_for_url(f"{PORTAL}/login**")
        another.get_by_role("button", name="Log all browsers out").click()
        another.wait_for_url(f"{PORTAL}/login**")
    assert alice.ok("browsers", "--json").count('"id"') == 0
