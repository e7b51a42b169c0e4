"""The actions' screens with keys, against a scripted controller: what they show, send and refuse."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

import pytest

from broker import errors
from broker.client.client import Client
from broker.schema.checks import CheckReport, StartEstimate, SwitchPreview
from broker.schema.cluster import ClusterView, LargestRequest
from broker.schema.sessions import Persistence
from tests.fakes.cluster import cluster_view, partition_view
from tests.fakes.controller import ScriptedController, operation
from tests.fakes.tui_actions import (
    READY,
    STOPPED,
    act,
    changes,
    notified,
    snapshot,
    type_texts,
)
from tests.fakes.tui_feed import NOW, DrivenFeed, make_view
from tui.screens.confirm import ConfirmScreen
from tui.screens.form_screen import FormScreen

if TYPE_CHECKING:
    from tests.fakes.tui_app import TuiTest


def test_a_session_starts_from_the_form(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.sessions["new1"] = make_view("new1", "queued", reason="Resources")
        await test.press("n")
        await test.until(lambda: isinstance(test.app.screen, FormScreen))
        await type_texts(test, name="new1", profile="torch", gpus="1", memory="16GB")
        await test.until_shown("$ berth start new1 --profile torch")
        assert "$ berth start new1 --profile torch --gres=gpu:1 --mem=16384M" in test.text()
        await test.press("enter")
        await notified(test, "new1: queued: Resources")
        ((method, path, body),) = changes(controller)
        assert (method, path) == ("POST", "/v1/sessions/new1/start")
        assert (body["profile"], body["options"]) == ("torch", ["--gres=gpu:1", "--mem=16384M"])

    act(controller, scenario, READY)


def test_a_wrong_field_shows_its_reason_and_sends_nothing(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("n")
        await type_texts(test, name="My Dev")
        await test.until_shown("cannot be a name")
        assert "try 'my-dev'" in test.text()
        await test.press("enter")
        await test.until_shown("is required")
        assert isinstance(test.app.screen, FormScreen)
        await type_texts(test, memory="lots")
        await test.until_shown("'lots' is not a size")
        await test.press("enter", "escape")
        await test.until(lambda: test.app.screen is test.app.main_screen)
        assert changes(controller) == []

    act(controller, scenario, READY)


def test_the_form_knows_profiles_and_taken_names(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("n")
        await type_texts(test, name="dev", profile="basic")
        await test.until_shown("there is no profile basic; there are base, torch")
        assert "you already have a session dev" in test.text()
        await test.press("backspace", "backspace", "e")
        await test.until_shown("base@2: Debian with git")

    act(controller, scenario, READY)


class FreeClient(Client):
    """A client with the record of a cluster of two partitions."""

    def cluster(self) -> ClusterView:
        large = LargestRequest(gpus=2, shards=8, cpus=64, memory_mib=131072)
        partitions = [
            partition_view("cpu", default=True, max_time_s=3600, largest=None),
            partition_view("gpu", default=False, max_time_s=None, largest=large),
        ]
        return cluster_view(partitions=partitions)


def test_the_form_shows_what_is_free_in_the_chosen_partition(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("n")
        await test.until_shown("at most 1 h")
        assert "there are cpu, gpu" in test.text()
        assert "free now" not in test.text()
        await type_texts(test, partition="gpu")
        await test.until_shown("free now: 2 or 8 shards")
        assert "free now: 128 GiB" in test.text()
        assert "at most" not in test.text()

    act(controller, scenario, READY, client=FreeClient)


def test_a_stop_asks_and_no_sends_nothing(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.terminals = 2
        await test.press("x")
        await test.until(lambda: isinstance(test.app.screen, ConfirmScreen))
        await test.until_shown("dev is in use (2 open terminals). Stop dev?")
        assert "Lost: running programs" in test.text()
        assert "`berth start dev` starts it again" in test.text()
        await test.press("n")
        await test.until(lambda: test.app.screen is test.app.main_screen)
        assert changes(controller) == []
        controller.script["dev"] = deque([make_view("dev", "stopping"), make_view("dev", "stopped", revision=2)])
        await test.press("x")
        await test.until(lambda: isinstance(test.app.screen, ConfirmScreen))
        await test.press("y")
        await notified(test, "dev: stopped")
        assert [path for _, path, _ in changes(controller)] == ["/v1/sessions/dev/stop"]

    act(controller, scenario, READY)


@pytest.mark.parametrize(("fits", "agreed"), [(True, "keep"), (False, "end")])
def test_resize_does_what_its_question_said(controller: ScriptedController, *, fits: bool, agreed: str) -> None:
    """Slurm's answer changes after the question: a job that the user has agreed to keep is not ended."""

    async def scenario(test: TuiTest) -> None:
        controller.estimates["dev"] = StartEstimate(at=NOW, waiting=0)
        controller.sessions["dev"] = make_view("dev", beside=fits)  # what the check answers
        controller.script["dev"] = deque([make_view("dev", job_id=8, revision=2)])
        await test.press("Z")
        await test.until(lambda: isinstance(test.app.screen, FormScreen))
        await type_texts(test, gpus="none")
        await test.press("enter")
        await test.until(lambda: isinstance(test.app.screen, ConfirmScreen))
        await test.until_shown("End all programs in dev?")
        assert ("beside the present one" in test.text()) == fits
        await test.press("y")
        await test.until(lambda: changes(controller))
        ((_, path, body),) = changes(controller)
        assert (path, body) == (
            "/v1/sessions/dev/resize",
            {"options": ["--gres=none"], "present_job": agreed},
        )

    act(controller, scenario, READY)


def test_several_marked_sessions_are_stopped_after_one_question(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        for name in ("dev", "two"):
            controller.script[name] = deque([make_view(name, "stopped")])
        await test.press("asterisk", "x")
        await test.until_shown("Stop dev, two?")
        assert "$ berth stop dev two" in test.text()
        await test.press("y")
        await test.until(lambda: len(changes(controller)) == 2)

    act(controller, scenario, READY, make_view("two"))


def test_what_cannot_be_undone_needs_the_typed_name(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("colon", *"purge", "enter")
        await test.until(lambda: isinstance(test.app.screen, ConfirmScreen))
        assert "this cannot be undone" in test.text()
        await test.press("y", "e", "s", "enter")
        await notified(test, "that is not the name old")
        assert changes(controller) == []
        await test.press("backspace", "backspace", "backspace")
        controller.script["old"] = deque([None])
        await test.press(*"old", "enter")
        await test.until(lambda: changes(controller))
        assert changes(controller)[0][:2] == ("DELETE", "/v1/sessions/old?purge")

    act(controller, scenario, STOPPED)


def test_a_refused_check_shows_message_and_hint_and_asks_nothing(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.failures["POST /v1/sessions/dev/check"] = errors.RefusedError(
            "the image of torch@2.9 is missing", hint="ask the publisher"
        )
        await test.press("R")
        await notified(test, "the image of torch@2.9 is missing. Hint: ask the publisher")
        assert test.app.screen is test.app.main_screen
        assert changes(controller) == []

    act(controller, scenario, READY)


def test_a_failed_operation_shows_why_and_what_to_do(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        failed = operation("rollback", "failed", reason="no-space", message="there is no space left", hint="`berth gc`")
        controller.snapshots["old"] = [snapshot(3)]
        controller.script["old"] = deque(
            [
                make_view("old", "changing", operation=operation("rollback")),
                make_view("old", "stopped", operation=failed, revision=2),
            ]
        )
        await test.press("b")
        await type_texts(test, snapshot="3")
        await test.press("enter")
        await test.until_shown("Roll old back to snapshot 3?")
        await test.press("y")
        await notified(test, "there is no space left. Hint: `berth gc`")

    act(controller, scenario, STOPPED)


def test_a_connection_lost_after_the_request_does_not_look_like_a_refusal(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        lost = errors.ControllerUnavailableError("the controller does not answer")
        controller.script["old"] = deque([make_view("old", "changing", operation=operation("snapshot")), lost])
        await test.press("S", "enter")
        await notified(test, "old: the request was accepted; the list shows its result when the controller answers")

    act(controller, scenario, STOPPED)


def test_a_switch_shows_its_plan_before_it_is_sent(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        preview = SwitchPreview(profile="base", version="2", options=["--mem=8G"], persistence=Persistence())
        estimate = StartEstimate(at=NOW, waiting=0)
        report = CheckReport(session=READY, ends_job=True, switch=preview, estimate=estimate)
        controller.answers["POST /v1/sessions/dev/check"] = report
        await test.press("P")
        await type_texts(test, profile="base@2")
        await test.until_shown("base@2: Debian with git")
        await test.press("enter")
        await test.until_shown("Switch dev to base@2?")
        text = " ".join(test.text().split())
        assert "switches from torch@2.9 to base@2; keeps its home and a snapshot of its present state" in text
        assert "Slurm expects to start it again at once" in text
        assert "resources unknown, because its image is missing -> --mem=8G" in text
        await test.press("escape")
        assert changes(controller) == []

    act(controller, scenario, READY)


def test_an_action_that_the_state_forbids_is_refused_with_the_reason(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("D")
        await notified(test, "it is ready; stop it first: `berth stop dev`")
        assert changes(controller) == []

    act(controller, scenario, READY)


def test_actions_refuse_at_once_without_a_connection(controller: ScriptedController) -> None:
    feed = DrivenFeed([READY])

    async def scenario(test: TuiTest) -> None:
        feed.lose()
        await test.until_shown("trying again")
        for key in ("x", "n", "S", "t"):
            await test.press(key)
        await notified(test, "nothing was sent")
        assert test.app.screen is test.app.main_screen
        assert controller.asked == []

    act(controller, scenario, READY, feed=feed)


def test_a_form_that_was_open_when_the_connection_was_lost_sends_nothing(controller: ScriptedController) -> None:
    feed = DrivenFeed([READY])

    async def scenario(test: TuiTest) -> None:
        await test.press("e")
        await type_texts(test, time="4h")
        feed.lose()
        await test.until(lambda: test.app.connection.refusal(NOW))
        await test.press("enter")
        await notified(test, "nothing was sent")
        assert controller.asked == []

    act(controller, scenario, READY, feed=feed)


def test_a_deleted_session_is_restored(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        controller.deleted = {"gone": make_view("gone", "deleted")}
        controller.script["gone"] = deque([make_view("gone", "stopped")])
        await test.press("U", *"lost")
        await test.until_shown("lost is not a deleted session; there are gone")
        await type_texts(test, name="")
        await test.press("ctrl+u", *"gone", "enter")
        await test.until(lambda: changes(controller))
        assert changes(controller) == [("POST", "/v1/deleted/gone/restore", {"name": None})]

    act(controller, scenario)


def test_without_a_deleted_session_the_form_says_so(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("U")
        await test.until_shown("there is none that can be restored")

    act(controller, scenario)


def test_policies_are_chosen_and_sent_one_by_one(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        await test.press("p")
        await test.until_shown("< (no change) >")
        await test.press("space")
        await test.until_shown("< yes >")
        await type_texts(test, idle="8h")
        await test.until_shown("$ berth set dev --start-on-connect yes --idle 8h")
        await test.press("enter")
        await test.until(lambda: len(changes(controller)) == 2)
        assert changes(controller) == [
            ("PATCH", "/v1/sessions/dev/connecting", {"start": True}),
            ("PUT", "/v1/sessions/dev/idle", {"idle": "8h"}),
        ]

    act(controller, scenario, READY)


def test_the_list_stays_usable_while_an_action_runs(controller: ScriptedController) -> None:
    async def scenario(test: TuiTest) -> None:
        slow = make_view("old", "changing", operation=operation("snapshot"))
        controller.script["old"] = deque([slow])
        await test.press("S", "enter")
        await test.until(lambda: changes(controller))
        await test.press("j")
        assert test.app.main_screen.sessions.chosen == "id-old"
        controller.script["old"].append(make_view("old", operation=operation("snapshot", "done", message="snapshot 4")))

    act(controller, scenario, STOPPED, READY)
