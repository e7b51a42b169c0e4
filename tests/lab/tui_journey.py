"""A session's whole life by the keys of `berth tui`, each step checked through the API and in the session's files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from tests.lab_cluster import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.lab.conftest import User
    from tests.lab.tui_login import LoginTerminal

STEP_S = 180.0
"""Seconds for one step, with slurmctld or the controller away for a part of it."""


@dataclass(frozen=True)
class TuiJourney:
    """The steps, in the order of `steps`; `name` and `clone` are sessions that do not exist yet."""

    terminal: LoginTerminal
    user: User
    name: str
    clone: str

    def steps(self) -> list[Callable[[], None]]:
        """Return all steps; each stands on the ones before it."""
        return [
            self.start_from_the_form,
            self.log_in_and_return,
            self.take_snapshot,
            self.change_file,
            self.compare,
            self.roll_back,
            self.make_clone,
            self.switch_clone,
            self.stop,
            self.delete,
            self.restore,
        ]

    def start_from_the_form(self) -> None:
        self._fill("n", "New session", [self.name, "base", "", "", "300M"])
        self._wait_for_state("ready")
        assert "--mem=300M" in self.user.show(self.name)["options"]

    def log_in_and_return(self) -> None:
        self._act("s")
        self.terminal.wait_for_text(f"$ berth ssh {self.name}")
        self._in_shell("echo one >work.txt; echo writ''ten", "written")
        self.terminal.type("exit 0")
        self.terminal.press("Enter")
        self._wait_for_list()

    def _in_shell(self, command: str, shown: str) -> None:
        """Type a command when the shell of the session has its prompt."""
        self.terminal.wait_for(lambda text: re.search(r"[$#%>]\s*$", text), what="a shell's prompt", deadline_s=STEP_S)
        self.terminal.type(command)
        self.terminal.press("Enter")
        self.terminal.wait_for_text(shown)

    def take_snapshot(self) -> None:
        self._fill("S", "Snapshot", ["first"])
        self._wait_until(lambda: "first" in self._labels(), "the snapshot")
        self._wait_until_done(self.name)

    def change_file(self) -> None:
        self._fill("!", "Run a command", ["sh -c 'echo two >work.txt'"])
        self._wait_for_list()
        assert self._content() == "two"

    def compare(self) -> None:
        self._fill("f", "Compare", ["first"])
        self.terminal.wait_for_text("work.txt", deadline_s=STEP_S)
        self.terminal.press("Escape")
        self._wait_for_list()

    def roll_back(self) -> None:
        before = self.user.show(self.name)["generation"]
        self._fill("b", "Roll back", ["first"])
        self._agree(f"Roll {self.name} back to snapshot first?")
        self._wait_until(lambda: self.user.show(self.name)["generation"] != before, "another run")
        self._wait_for_state("ready")
        assert self._content() == "one"

    def make_clone(self) -> None:
        self._fill("c", "Clone", [self.clone])
        self._wait_until(lambda: self.user.knows(self.clone), "the clone")
        self._wait_until_done(self.clone)
        self.terminal.wait_for(lambda text: re.search(rf"\b{self.clone} +stopped", text), what="the clone in the list")

    def switch_clone(self) -> None:
        self._fill("P", "Switch profile", ["other"], session=self.clone)
        self._agree(f"Switch {self.clone} to other?")
        self._wait_until(lambda: self.user.show(self.clone)["profile"] == "other", "the other profile")
        self._wait_until_done(self.clone)
        self.terminal.wait_for(lambda text: re.search(rf"\b{self.clone} .*other@", text), what="the other profile")

    def stop(self) -> None:
        self._act("x")
        self._agree(f"Stop {self.name}?")
        self._wait_for_state("stopped")

    def delete(self) -> None:
        self._act("D")
        self._agree(f"Delete {self.name} and")
        self._wait_until(lambda: not self.user.knows(self.name), "the deletion")
        self.terminal.wait_for(lambda text: not re.search(rf"\b{self.name} +\w+ing\b", text), what="a shorter list")

    def restore(self) -> None:
        self._fill("U", "Restore", [self.name], session=self.clone)
        self._wait_until(lambda: self.user.knows(self.name), "the restored session")
        self._wait_for_state("stopped")
        self._wait_until_done(self.name)
        assert self._labels() == ["first"]

    # Keys

    def _act(self, key: str, session: str = "") -> None:
        """Press an action's key when the session, if there is one, is chosen and the list is live."""
        self._wait_for_list()
        self.terminal.wait_until_live()
        if self.user.sessions():
            self.terminal.choose(session or self.name)
        self.terminal.type(key)

    def _fill(self, key: str, title: str, texts: list[str], session: str = "") -> None:
        """Open a form, fill its first fields, and send it."""
        self._act(key, session)
        self.terminal.wait_for(lambda text: text.lstrip().startswith(title), what=title)
        for number, text in enumerate(texts):
            if number:
                self.terminal.press("Tab")
            if text:
                self.terminal.type(text)
        self.terminal.wait_for(lambda text: re.search(r"^ *\$ berth ", text, re.MULTILINE), what="the command line")
        self.terminal.press("Enter")

    def _agree(self, question: str) -> None:
        """Answer a question, once it is shown with what is lost."""
        self.terminal.wait_for(lambda text: question in text and "y yes" in text, what=question, deadline_s=STEP_S)
        self.terminal.type("y")

    # Results

    def _wait_for_list(self) -> None:
        self.terminal.wait_for_text("q quit", deadline_s=STEP_S)

    def _wait_for_state(self, state: str) -> None:
        """Wait until the session is in the state, and the list shows that."""
        self._wait_until(lambda: self.user.knows(self.name), f"{self.name}")
        self.user.wait(self.name, state, seconds=STEP_S)
        self.terminal.wait_for(
            lambda text: re.search(rf"\b{self.name} +{state}\b", text), what=f"{self.name} {state}", deadline_s=STEP_S
        )

    def _wait_until(self, condition: Callable[[], bool], what: str) -> None:
        wait_for(condition, what=what, seconds=STEP_S)

    def _wait_until_done(self, name: str) -> None:
        """Wait for the end of the operation; it must not have failed."""

        def is_done(view: dict[str, object]) -> bool:
            return self._status(view) != "pending"

        view = self.user.until(name, is_done, what="the end of the operation", seconds=STEP_S)
        assert self._status(view) in {"", "done"}, view["operation"]

    @staticmethod
    def _status(view: dict[str, object]) -> str:
        operation = view["operation"]
        return str(operation["status"]) if isinstance(operation, dict) else ""

    def _labels(self) -> list[str]:
        status, body = self.user.request(f"/v1/sessions/{self.name}/snapshots")
        assert status == HTTPStatus.OK, body
        return [each["label"] for each in json.loads(body)["snapshots"] if each["label"]]

    def _content(self) -> str:
        return self.user.laptop.ok(self.name, "cat work.txt").decode().strip()
