"""The form for a new session: bad input is refused in place, and what is valid is what the command line would send."""

from __future__ import annotations

import json
import pathlib
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.client.client import Client
from broker.forms.action_forms import (
    clone_form,
    commit_form,
    diff_form,
    exec_form,
    extend_form,
    policies_form,
    rename_form,
    resize_form,
    rollback_form,
    snapshot_form,
    stop_time_form,
    switch_form,
)
from broker.forms.form import Form, InvalidFormError
from broker.forms.start_form import (
    ProfileChoice,
    describe_profile,
    new_session_form,
    parse_profile_list,
    profile_texts,
    start_command,
    start_request,
)
from tests.fakes.command_line import command_line, run
from tests.fakes.controller import ScriptedController, view
from tui.workers.calls import FORM_CALLS, send

if TYPE_CHECKING:
    from collections.abc import Callable

PROFILES = [
    ProfileChoice("base", "1", "site", "Debian with git"),
    ProfileChoice("base", "2", "site", "Debian with git and gcc", newest=True),
    ProfileChoice("mine", "1", "own", newest=True),
    ProfileChoice("both", "1", "own", newest=True),
    ProfileChoice("both", "3", "site", newest=True),
]

BAD_FIELDS = [
    ("name", "Dev", "'Dev' cannot be a name: names have 1 to 39 small letters, digits and hyphens and start"),
    ("name", "my_dev", "try 'my-dev'"),
    ("name", "-x", "is an option"),
    ("name", "a" * 40, "cannot be a name"),
    ("name", "", "is required"),
    ("name", "old", "you already have a session old"),
    ("profile", "", "is required"),
    ("profile", "Base", "cannot be a name"),
    ("profile", "base@", "is not a version"),
    ("profile", "base@../x", "is not a version"),
    ("profile", "base@9", "there is no profile base@9; there are base, mine, own/both, site/both"),
    ("profile", "other", "there is no profile other"),
    ("profile", "both", "use site/both or own/both"),
    ("gpus", "0", "is neither a number of GPUs"),
    ("gpus", "-1", "is neither a number of GPUs"),
    ("gpus", "gpu:1:2:3", "is neither a number of GPUs"),
    ("gpus", "one gpu", "is neither a number of GPUs"),
    ("gpus", "two", "is neither a number of GPUs"),
    ("gpus", "gpu:intel", "is neither a number of GPUs"),
    ("cpus", "0", "is not a number of CPUs"),
    ("cpus", "1.5", "is not a number of CPUs"),
    ("cpus", "٣", "is not a number of CPUs"),
    ("memory", "lots", "'lots'"),
    ("memory", "16Q", "'16Q'"),
    ("time", "soon", "'soon' is not a length of time; use 90 (minutes)"),
    ("time", "8x", "is not a length of time"),
    ("partition", "a b", "characters that no name in Slurm has"),
    ("partition", "gpü", "characters that no name in Slurm has"),
    ("account", "\x1b[31m", "characters that no name in Slurm has"),
    ("qos", "x" * 2000, "longer than 1024 characters"),
    ("node", "c1 c2", "characters that no name in Slurm has"),
    ("options", "--array=1-5", "--array cannot be used for a session"),
    ("options", "--gress=gpu:1", "did you mean --gres?"),
    ("options", "gpu", "options begin with - or --"),
    ("options", "--comment='x", "a quotation mark or a backslash at the end is not completed"),
    ("options", "--mem=lots", "--mem: 'lots'"),
    ("keep", "opt/cache", "is neither `home`, `system`, nor a path"),
    ("keep", "/a/../b", "is neither `home`, `system`, nor a path"),
    ("keep", "home,", "is neither `home`, `system`, nor a path"),
    ("fresh", "/a:b", "is neither `home`, `system`, nor a path"),
]


def start_form(**texts: str) -> Form:
    form = new_session_form(PROFILES, taken={"old"})
    for field_id, text in ({"name": "dev", "profile": "base"} | texts).items():
        form.set(field_id, text)
    return form


@pytest.mark.parametrize(("field_id", "text", "reason"), BAD_FIELDS)
def test_bad_input_is_refused_in_its_field(field_id: str, text: str, reason: str) -> None:
    form = start_form(**{field_id: text})
    assert list(form.errors()) == [field_id]
    assert reason in form.errors()[field_id]
    with pytest.raises(InvalidFormError, match=f"^{form.field(field_id).title}: "):
        start_request(form, {})
    with pytest.raises(InvalidFormError):
        start_command(form)


def test_what_contradicts_itself_is_refused() -> None:
    both = start_form(keep="home, /opt", fresh="/opt")
    assert both.errors() == {"fresh": "/opt cannot be both in --keep and in --fresh"}
    many = start_form(options=" ".join(f"--{name}=x" for name in ("hint", "network", "wckey")))
    assert many.errors() == {}


OTHER_BAD_FIELDS = [
    (stop_time_form, {"at": "yesterday"}, "is not a time such as 18:00"),
    (stop_time_form, {"at": "2020-01-01T00:00"}, "is in the past"),
    (stop_time_form, {"at": "18:00", "keep": "maybe"}, "is not one of no, yes"),
    (extend_form, {"time": "0"}, "is not longer than 0"),
    (extend_form, {"time": "9999d"}, "is longer than"),
    (resize_form, {}, "change at least one resource"),
    (resize_form, {"cpus": "x"}, "is not a number of CPUs"),
    (policies_form, {}, "change at least one policy"),
    (policies_form, {"start": "perhaps"}, "is not one of"),
    (policies_form, {"wait": "long"}, "or default"),
    (policies_form, {"wait": "9d"}, "is longer than"),
    (policies_form, {"continue": "sometimes"}, "always, never, default"),
    (policies_form, {"idle": "90s"}, "whole number of minutes"),
    (rename_form, {"new": "Thesis"}, "try 'thesis'"),
    (snapshot_form, {"label": "3"}, "cannot be a label"),
    (rollback_form, {"snapshot": "0"}, "neither a snapshot's number nor a label"),
    (rollback_form, {}, "is required"),
    (clone_form, {"new": "x", "snapshot": "a b"}, "neither a snapshot's number nor a label"),
    (clone_form, {"new": "x", "profile": "A"}, "cannot be a name"),
    (switch_form, {"profile": "a@b@c"}, "is not a version"),
    (commit_form, {"profile": "tools"}, "the version of tools is missing"),
    (exec_form, {"command": "'"}, "is not completed"),
    (exec_form, {"command": "-l"}, "is not a command"),
    (diff_form, {"from": "\x00"}, "neither a snapshot's number nor a label"),
]


@pytest.mark.parametrize(("make", "texts", "reason"), OTHER_BAD_FIELDS)
def test_bad_input_in_other_forms_is_refused_in_its_field(
    make: Callable[[], Form], texts: dict[str, str], reason: str
) -> None:
    form = make()
    for field_id, text in texts.items():
        form.set(field_id, text)
    (message,) = form.errors().values()
    assert reason in message
    with pytest.raises(InvalidFormError):
        form.values()


def test_every_field_of_every_form_has_bad_input_in_a_test() -> None:
    tested = {(new_session_form().title, field_id) for field_id, _, _ in BAD_FIELDS}
    tested |= {(make().title, field_id) for make, texts, _ in OTHER_BAD_FIELDS for field_id in texts}
    resources = {(resize_form().title, field.id) for field in resize_form().fields}  # as in the form for a start
    choices = {("Clone", "start"), ("Switch profile", "fresh"), ("Run a command", "root"), ("Compare", "content")}
    snapshots = {("Commit to a profile", "snapshot"), ("Compare", "to")}  # the same field as in others
    forms = [make() for make in {make for make, _, _ in OTHER_BAD_FIELDS}] + [new_session_form()]
    assert {(form.title, field.id) for form in forms for field in form.fields} - tested <= (
        resources | choices | snapshots
    )


def test_blanks_around_a_text_do_not_count() -> None:
    form = start_form(name="  dev ", memory=" 4G ")
    assert start_command(form) == ["berth", "start", "dev", "--profile", "base", "--mem=4G"]


def test_the_sbatch_variables_are_defaults_as_on_the_command_line() -> None:
    request = start_request(start_form(), {"SBATCH_PARTITION": "gpu", "HOME": "/"})
    assert request.defaults == ["--partition=gpu"]
    assert start_request(start_form(), {}).defaults == []


def test_profiles_are_read_from_the_list_of_the_command() -> None:
    listed = [
        {"name": "base", "version": "2", "owner": "site", "description": "Debian", "newest": True, "size": 5},
        {"name": "base", "version": "1", "owner": "site", "description": None, "newest": False},
    ]
    profiles = parse_profile_list(json.dumps({"profiles": listed, "damaged": []}))
    assert profile_texts(profiles) == ("base", "base@1")
    assert describe_profile(profiles, "base") == "base@2: Debian"
    assert describe_profile(profiles, "base@1") == "base@1"
    assert describe_profile(profiles, "other") == ""
    for text in ("[]", '{"profiles": [1]}', "{", '{"profiles": [{"name": "x"}]}'):
        with pytest.raises(ValueError):  # noqa: PT011 - any of them: the caller treats all alike
            parse_profile_list(text)


LIKELY = st.sampled_from(
    [
        *(text for _, text, _ in BAD_FIELDS),
        *(
            "dev",
            "base",
            "base@1",
            "1",
            "2",
            "gpu:intel:1",
            "none",
            "shard:1",
            "4G",
            "1.5G",
            "0",
            "8h",
            "90",
            "1:30:00",
        ),
        *("gpu", "home", "system", "/opt, ~/x", "--gres=gpu:1 -t 5", "-C 'a|b' --exclusive", "-n2", "--mem-per-cpu=1G"),
    ]
)
TEXTS = st.one_of(LIKELY, st.text(max_size=20), st.text("0123456789:.-=, gGmMhdsux@/~", max_size=12))
FIELDS = [field.id for field in new_session_form().fields]


@given(typed=st.lists(st.tuples(st.sampled_from(FIELDS), TEXTS), max_size=8))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_typing_sends_nothing_or_what_the_command_sends(
    monkeypatch: pytest.MonkeyPatch, typed: list[tuple[str, str]]
) -> None:
    with tempfile.TemporaryDirectory() as home, command_line(monkeypatch, pathlib.Path(home)) as controller:
        form = new_session_form()
        form.set("name", "dev")
        form.set("profile", "base")
        for field_id, text in typed:
            form.set(field_id, text)
        if form.errors():
            with pytest.raises(InvalidFormError):
                send(Client(controller.socket), "new", "", form)
            assert controller.asked == []
            return
        assert sent_by_form(controller, form) == sent_by_command(controller, form)


def sent_by_form(controller: ScriptedController, form: Form) -> object:
    controller.sessions[form.text("name")] = view(form.text("name"))
    FORM_CALLS["new"](Client(controller.socket), "", form)
    return last_request(controller)


def sent_by_command(controller: ScriptedController, form: Form) -> object:
    result = run(*start_command(form)[1:], "--no-wait")
    assert result.exit_code == 0, result.output
    return last_request(controller)


def last_request(controller: ScriptedController) -> object:
    """Return path and body of the request that changes something, without fields that have their default."""
    ((path, body),) = [(path, body) for method, path, body in controller.asked if method == "POST"]
    controller.asked.clear()
    persistence = body["persistence"]
    kept = persistence and {name: value for name, value in persistence.items() if value}
    return path, {name: value for name, value in body.items() if value} | {"persistence": kept}
