"""Every form of the portal in Chromium on the lab: the life of a session, and the logouts, without a command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from playwright.sync_api import Page, expect

from tests.lab.browser import PORTAL, host_of, log_in, login_link, new_browser, wait_for_terminal
from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser, Locator

    from tests.lab.conftest import User

HOUR_S = 3600
MAX_TABS = 60
"""Elements of a page that Tab comes to, at most."""
RECORD_ANNOUNCEMENTS = """
window.announced = [];
document.addEventListener("DOMContentLoaded", () => {
    const region = document.getElementById("announcement");
    if (region) new MutationObserver(() => announced.push(region.textContent)).observe(region, {childList: true});
});
"""


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


def tab_to(page: Page, target: Locator) -> None:
    """Come to an element with Tab alone."""
    for _ in range(MAX_TABS):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab does not reach {target}")


def press(page: Page, target: Locator) -> None:
    tab_to(page, target)
    page.keyboard.press("Enter")


def test_session_is_started_opened_and_stopped_by_keyboard_alone(
    alice: User, image: str, new_name: Callable[[str], str], page: Page
) -> None:
    """Nothing is clicked. The page announces once that the session is ready."""
    name = new_name("keys")
    page.add_init_script(RECORD_ANNOUNCEMENTS)
    page.goto(login_link(alice, "portal"))
    press(page, page.get_by_role("button", name="Log in as"))
    page.wait_for_url(f"{PORTAL}/")
    press(page, page.get_by_role("link", name="New session").last)
    page.wait_for_url(f"{PORTAL}/start")
    for label, text in (("Name", name), ("Profile", image)):
        tab_to(page, page.locator("form").get_by_label(label))
        page.keyboard.type(text)
    press(page, page.locator("form .primary"))
    page.wait_for_url(f"{PORTAL}/sessions/{name}?done=start")
    expect(page.locator("#announcement")).to_contain_text("ready on")
    assert len([text for text in page.evaluate("announced") if "ready on" in text]) == 1
    press(page, page.locator("#service-terminal"))
    page.wait_for_url(f"{host_of('terminal', name, 'alice')}**")
    wait_for_terminal(page)

    page.goto(f"{PORTAL}/sessions/{name}")
    press(page, page.locator("#action-stop"))
    page.wait_for_url(f"{PORTAL}/sessions/{name}/stop")
    press(page, page.locator("form .primary"))
    accepted(page, name, "stop")
    alice.wait(name, "stopped")


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
