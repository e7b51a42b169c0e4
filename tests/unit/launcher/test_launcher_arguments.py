"""The launcher's arguments: what the controller sends is what the launcher gets, and nothing else passes."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from broker.launcher.argument_bases import ImageArguments
from broker.launcher.arguments import ARGUMENTS, SubmitArguments
from broker.launcher.request import VerbError
from broker.launcher.verbs import VERBS
from broker.names import new_id

ID = new_id()
NAN = float("nan")
VALUES: dict[str, Any] = {
    "session": ID,
    "operation": ID,
    "source": ID,
    "profile": "base",
    "version": "1.0~rc1",
    "digest": "sha256:" + "0" * 64,
    "to": {"profile": "other", "version": "2", "digest": ""},
    "label": "before-upgrade",
    "reason": "for a test",
    "automatic": True,
    "image": "/store/base/1/image.sif",
    "offset": 40960,
    "files": {"manifest.json": "{}"},
    "driver": "reflink",
    "submission": 7,
    "options": ["--mem=1G"],
    "shown_name": "dev",
    "beside": True,
    "timeout": 12.5,
    "wait": 12.5,
    "bytes": 1000,
    "job_id": 2**32 - 1,
    "most": 25,
    "snapshot": 3,
    "until": 4,
    "fresh": True,
    "job": "7_1@c1.0",
    "base_packages": "bash 5.2\n",
    "content": True,
    "packages": True,
    "own": False,
    "over": [ID],
    "dry_run": True,
    "owner": "alice",
    "system": True,
    "most_bytes": 2**40,
}
"""By field, a value that is taken."""
WRONG: dict[str, list[Any]] = {
    **{key: ["", "..", f"../{ID}", ID + "\n", ID.upper(), [ID]] for key in ("session", "operation", "source")},
    "profile": ["../x", "a/b", "base\n", "A" * 40],
    "version": ["../1", "1\n", "-1", "1" * 65],
    "digest": ["sha256:0", "md5:" + "0" * 32, "\n"],
    "to": [{}, {"profile": "x/y", "version": "1", "digest": ""}, [], "base"],
    "label": ["1", "../up", "a\n", "a" * 65],
    "reason": ["a\nb", "\x1b[2J", "x" * 201],
    "image": ["relative", "", "/a\0b", "/" + "x" * 4096],
    "offset": [-1, 2**63, 1.5],
    "files": [{"manifest.json": 7}, {"manifest.json": "\ud800"}, ["manifest.json"]],
    "driver": ["other", "auto\n"],
    "options": [[7], "--mem=1G", ["\ud800"]],
    "shown_name": ["../x", "a b", "dev\n", "A", "a" * 40],
    **{key: [0, -1, NAN, float("inf"), 1e9] for key in ("timeout", "wait")},
    **{key: [0, -1, 10**9, 1.0] for key in ("submission", "most", "snapshot", "until")},
    "bytes": [-1, 2**63, NAN],
    "job_id": [0, 2**32, -7],
    "job": ["../7", "7\n", "0", "7@"],
    "base_packages": ["x" * (4 * 2**20 + 1)],
    **{
        key: [0, 1, "yes"]
        for key in ("automatic", "beside", "fresh", "content", "dry_run", "own", "packages", "system")
    },
    "owner": ["", "../x", "Root", "a\n", "-x", "a" * 40],
    "most_bytes": [-1, 2**63, 1.5],
    "over": [["../x"], ID, [None]],
}
"""By field, values that are refused, beside those of another JSON type."""
TYPES: list[Any] = [None, True, 7, "\0", {"a": 1}, [[]]]
OPTIONAL = {
    ("own_image", "version"),
    ("clone", "snapshot"),
    ("clone", "to"),
    ("environment", "source"),
    ("environment", "snapshot"),
    ("diff", "snapshot"),
    ("diff", "until"),
}
FIELDS = [(verb, field.name) for verb, kind in ARGUMENTS.items() for field in fields(kind)]


def request_of(verb: str) -> dict[str, Any]:
    return {field.name: VALUES[field.name] for field in fields(ARGUMENTS[verb])}


def test_every_verb_has_its_arguments() -> None:
    assert VERBS.keys() == ARGUMENTS.keys()


@pytest.mark.parametrize("verb", ARGUMENTS)
def test_arguments_arrive_as_they_were_sent(verb: str) -> None:
    sent = ARGUMENTS[verb].parse(request_of(verb))
    received = ARGUMENTS[verb].parse(json.loads(json.dumps({"id": 7, "verb": verb, "user": "u"} | sent.request())))
    assert received == sent
    assert sent.request() == request_of(verb)


@pytest.mark.parametrize(("verb", "name"), FIELDS)
def test_values_that_do_not_fit_are_refused(verb: str, name: str) -> None:
    for value in [*WRONG[name], *(value for value in TYPES if type(value) is not type(VALUES[name]))]:
        if value is None and (verb, name) in OPTIONAL:
            continue
        if name in {"timeout", "wait"} and value == 7:  # seconds may be whole
            continue
        with pytest.raises(VerbError) as refused:
            ARGUMENTS[verb].parse(request_of(verb) | {name: value})
        assert refused.value.kind == "invalid", value


@pytest.mark.parametrize(("verb", "name"), FIELDS)
def test_only_arguments_with_a_default_may_be_missing(verb: str, name: str) -> None:
    request = request_of(verb)
    del request[name]
    field = next(field for field in fields(ARGUMENTS[verb]) if field.name == name)
    if "MISSING" in repr(field.default):
        with pytest.raises(VerbError) as refused:
            ARGUMENTS[verb].parse(request)
        assert refused.value.kind == "invalid"
    else:
        assert getattr(ARGUMENTS[verb].parse(request), name) == field.default


def test_an_image_is_parsed_within_other_arguments() -> None:
    parsed = ARGUMENTS["switch"].parse(request_of("switch"))
    assert getattr(parsed, "to") == ImageArguments(profile="other", version="2", digest="")  # noqa: B009 - of a subclass


def test_a_refusal_quotes_little_of_a_value() -> None:
    with pytest.raises(VerbError) as refused:
        SubmitArguments.parse(request_of("submit") | {"session": "x" * 10**6})
    assert len(str(refused.value)) < 120
