"""Volumes in memory: layers of files, stacks of layers, snapshots of stacks; test_fake_launcher.py holds it
against the real launcher's verbs.
"""

from __future__ import annotations

import copy
import json
import time
from typing import TYPE_CHECKING, Any

from broker.controller.launcher_client.errors import LauncherError
from broker.names import new_id
from tests.fakes.volume_record import VOLUMES, Answer, Record

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping


class FakeVolumes:
    """All volumes of all users. Tests write into tops, say which sessions a job has open, and read the truth."""

    def __init__(self, runs: Callable[[int], bool]) -> None:
        """`runs` tells whether a job runs."""
        self._runs = runs
        self.records: dict[tuple[str, str], Record] = {}
        self.trash: dict[tuple[str, str], Record] = {}
        self.layers: dict[str, dict[str, dict[str, str]]] = {}
        """By user and layer, the files in it."""
        self.environments: dict[tuple[str, str], Answer] = {}
        """The answer about each batch job's environment."""
        self.open: set[str] = set()
        """Ids of sessions whose job holds the lock."""
        self.full = False
        """No space is left."""

    # What tests do and see.

    def write(self, user: str, session_id: str, path: str, content: str, volume: str = "home") -> None:
        """Write a file as a process of the session does."""
        self.layers[user][self.records[user, session_id].tops[volume]][path] = content

    def read(self, user: str, session_id: str, volume: str = "home") -> dict[str, str]:
        """The files that the session sees."""
        record = self.records[user, session_id]
        return self._merged(user, [*record.layers[volume], record.tops[volume]])

    def read_snapshot(self, user: str, session_id: str, number: int, volume: str = "home") -> dict[str, str]:
        return self._merged(user, self._of_number(self.records[user, session_id], number)[volume])

    def _merged(self, user: str, stack: list[str]) -> dict[str, str]:
        merged: dict[str, str] = {}
        for layer in stack:
            merged |= self.layers[user][layer]
        return merged

    # The verbs.

    def do(self, verb: str, user: str, arguments: Mapping[str, Any]) -> Answer:
        """Answer as the launcher does, or raise LauncherError."""
        answer: Answer = getattr(self, f"_{verb}")(user, dict(arguments))
        return copy.deepcopy(answer)

    def prepare(self, user: str, session_id: str) -> Answer:
        key = (user, session_id)
        if key not in self.records:
            self.records[key] = Record({volume: self._new_layer(user) for volume in VOLUMES})
        return self.records[key].facts()

    def _probe(self, user: str, arguments: Answer) -> Answer:
        del user, arguments
        return {
            "driver": "overlay",
            "why": "it works here",
            "promises": ["a snapshot of a stopped session costs nothing"],
        }

    def _made(self, arguments: Answer, record: Record, stacks: Mapping[str, list[str]]) -> Answer:
        record.last_number += 1
        made = {
            "number": record.last_number,
            "label": "",
            "reason": "",
            "automatic": True,
            "at": time.time(),
            "consistency": "stopped",
            "profile": arguments["profile"],
            "version": arguments["version"],
            "digest": arguments["digest"],
            "pause": 0.0,
        } | {volume: list(stack) for volume, stack in stacks.items()}
        record.snapshots.append(made)
        return made

    def _of_number(self, record: Record, number: int) -> Answer:
        for each in record.snapshots:
            if each["number"] == number:
                return each
        raise LauncherError("missing", f"there is no snapshot {number}")

    def _begin(self, user: str, arguments: Answer) -> tuple[Record, Answer | None]:
        """The session's record and, if the operation was done before, what came of it."""
        record = self._record(user, arguments["session"])
        return record, record.done.get(arguments["operation"])

    def _record(self, user: str, session_id: str) -> Record:
        if (user, session_id) not in self.records:
            raise LauncherError("missing", f"{session_id} has no volumes")
        return self.records[user, session_id]

    def _done(self, record: Record, arguments: Answer, answer: Answer) -> Answer:
        answer = copy.deepcopy(answer | {"volumes": record.facts()})
        record.done[arguments["operation"]] = answer
        return answer

    def _check_room(self) -> None:
        if self.full:
            raise LauncherError("space", "No space left on device")

    def _check_closed(self, session_id: str) -> None:
        if session_id in self.open:
            raise LauncherError("busy", f"a job has {session_id} open")

    def _check_label(self, record: Record, label: str) -> None:
        if label and any(each["label"] == label for each in record.snapshots):
            raise LauncherError("conflict", f"there is a snapshot {label} already")

    def _new_layer(self, user: str, content: Mapping[str, str] | None = None) -> str:
        layer = new_id()
        self.layers.setdefault(user, {})[layer] = dict(content or {})
        return layer

    def _freeze(self, user: str, record: Record) -> None:
        for volume, top in record.tops.items():
            if self.layers[user][top]:
                record.layers[volume].append(top)
                record.tops[volume] = self._new_layer(user)

    def _now(self, user: str, arguments: Answer, record: Record, **what: object) -> Answer:
        """Freeze, and make a snapshot of what is frozen."""
        self._freeze(user, record)
        made = self._made(arguments, record, record.layers)
        made.update(what)
        return made

    def _put(self, user: str, record: Record, volume: str, stack: list[str]) -> None:
        record.layers[volume] = list(stack)
        record.tops[volume] = self._new_layer(user)

    def _what(self, arguments: Answer) -> Answer:
        return {key: arguments[key] for key in ("label", "reason", "automatic")}

    def _snapshot(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        self._check_closed(arguments["session"])
        self._check_room()
        self._check_label(record, arguments["label"])
        made = self._now(user, arguments, record, **self._what(arguments))
        return self._done(record, arguments, {"snapshot": made})

    def _copy(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        self._check_room()
        if not self._runs(arguments["job_id"]):
            raise LauncherError("ended", "the job is gone")
        self._check_label(record, arguments["label"])
        stacks = {
            volume: [*stack, self._new_layer(user, self.layers[user][record.tops[volume]])]
            for volume, stack in record.layers.items()
        }
        made = self._made(arguments, record, stacks)
        made.update(self._what(arguments) | {"consistency": "frozen", "pause": 0.01})
        return self._done(record, arguments, {"snapshot": made})

    def _rollback(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        self._check_closed(arguments["session"])
        to = self._of_number(record, arguments["snapshot"])
        self._check_room()
        before = self._now(user, arguments, record, reason=f"before rollback to {to['number']}")
        for volume in VOLUMES:
            self._put(user, record, volume, to[volume])
        return self._done(record, arguments, {"before": before, "snapshot": to})

    def _switch(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        self._check_closed(arguments["session"])
        self._check_room()
        to = arguments["to"]
        there = [each for each in record.snapshots if all(each[key] == to[key] for key in to)]
        before = self._now(user, arguments, record, reason=f"before switch to {to['profile']}@{to['version']}")
        stack = there[-1]["system"] if there and not arguments["fresh"] else []
        self._put(user, record, "system", stack)
        return self._done(record, arguments, {"before": before, "system": "kept" if stack else "fresh"})

    def _clone(self, user: str, arguments: Answer) -> Answer:
        key = (user, arguments["session"])
        if key in self.records:
            done = self.records[key].done.get(arguments["operation"])
            if done:
                return done | {"source": self._record(user, arguments["source"]).facts()}
            raise LauncherError("conflict", f"{arguments['session']} is there already")
        source = self._record(user, arguments["source"])
        if arguments["snapshot"] is None:
            self._check_closed(arguments["source"])
        self._check_room()
        if arguments["snapshot"] is None:
            made = self._now(user, arguments, source, reason="for a clone")
        else:
            made = self._of_number(source, arguments["snapshot"])
        record = self.records[key] = Record({volume: self._new_layer(user) for volume in VOLUMES})
        record.layers["home"] = list(made["home"])
        record.layers["system"] = [] if arguments["to"] else list(made["system"])
        return self._done(record, arguments, {"snapshot": made}) | {"source": source.facts()}

    def _receive(self, user: str, arguments: Answer) -> Answer:
        key = (user, arguments["session"])
        if key in self.records:
            return self.records[key].done[arguments["operation"]]
        owner = arguments["owner"]
        made = self._of_number(self._record(owner, arguments["source"]), arguments["snapshot"])
        self._check_room()
        volumes = {volume: self._merged(owner, made[volume]) for volume in VOLUMES}
        if sum(len(content) for content in volumes["home"].values()) > arguments["most_bytes"]:
            raise LauncherError("space", "the snapshot takes more than you may still use")
        record = self.records[key] = Record({volume: self._new_layer(user) for volume in VOLUMES})
        record.layers["home"] = [self._new_layer(user, volumes["home"])]
        record.layers["system"] = [self._new_layer(user, volumes["system"])] if arguments["system"] else []
        return self._done(record, arguments, {})

    def _survey(self, user: str, arguments: Answer) -> Answer:
        made = self._of_number(self._record(user, arguments["session"]), arguments["snapshot"])
        files = {volume: self._merged(user, made[volume]) for volume in VOLUMES}
        sizes = {volume: sum(map(len, content.values())) for volume, content in files.items()}
        included = {volume: {"files": len(files[volume]), "bytes": sizes[volume]} for volume in VOLUMES}
        return {"included": included, "left_out": [], "reasons": {}, "truncated": False}

    def _environment(self, user: str, arguments: Answer) -> Answer:
        if arguments["source"] is None:
            self.prepare(user, arguments["session"])
        else:
            self._clone(user, {**arguments, "to": None})
        described = json.loads(arguments["files"]["batch.json"])
        directory = f"/shared/berth/{user}/sessions/{arguments['session']}"
        told = {"id": arguments["session"], "directory": directory, "driver": "overlay", "used_at": time.time()}
        self.environments[user, arguments["session"]] = described | told
        return {"directory": directory}

    def _environments(self, user: str, arguments: Answer) -> Answer:
        del arguments
        found = sorted(self.environments.items())
        return {"environments": [told for (owner, key), told in found if owner == user and (user, key) in self.records]}

    def begin_job(self, user: str, environment: str, key: str, content: Mapping[str, str]) -> None:
        """Begin the job on a node and end it, with this content of its home."""
        top = self._new_layer(user, content)
        record = self.records[user, environment]
        record.jobs[key] = top
        directory = self.environments[user, environment]["directory"]
        begun = {"key": key, "top": f"{directory}/{top}", "node": "c1", "work": "/work", "inside": "/home/alice"}
        self.environments[user, environment].setdefault("jobs", []).append(begun | {"running": False})

    def _promote(self, user: str, arguments: Answer) -> Answer:
        key = (user, arguments["session"])
        if key in self.records:
            return self.records[key].done[arguments["operation"]]
        source = self._record(user, arguments["source"])
        if arguments["job"] not in source.jobs:
            raise LauncherError("missing", f"no job {arguments['job']} has begun there")
        self._check_room()
        record = self.records[key] = Record({volume: self._new_layer(user) for volume in VOLUMES})
        record.layers = {
            "home": [*source.layers["home"], source.jobs[arguments["job"]]],
            "system": list(source.layers["system"]),
        }
        return self._done(record, arguments, {})

    def _commit_root(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        self._check_room()
        if not self._runs(arguments["job_id"]):
            raise LauncherError("ended", "the job is gone")
        layer = self._new_layer(user, {"/etc/passwd": "changed by root"})
        self._freeze(user, record)
        record.layers["system"].append(layer)
        return self._done(record, arguments, {"layer": layer})

    def _snapshots(self, user: str, arguments: Answer) -> Answer:
        record = self._record(user, arguments["session"])
        return {"snapshots": record.snapshots, "volumes": record.facts()}

    def _forget(self, user: str, arguments: Answer) -> Answer:
        record = self._record(user, arguments["session"])
        gone = self._of_number(record, arguments["snapshot"])
        record.snapshots.remove(gone)
        return {"snapshot": gone, "volumes": record.facts()}

    def _diff(self, user: str, arguments: Answer) -> Answer:
        record = self._record(user, arguments["session"])
        files = []
        for volume in VOLUMES:
            number, until = arguments["snapshot"], arguments["until"]
            before = {} if number is None else self._merged(user, self._of_number(record, number)[volume])
            now = self.read(user, arguments["session"], volume)
            if until is not None:
                now = self._merged(user, self._of_number(record, until)[volume])
            for path in sorted(before.keys() | now.keys()):
                if before.get(path) != now.get(path):
                    change = "A" if path not in before else "D" if path not in now else "M"
                    files.append({"change": change, "volume": volume, "path": path})
        return {"packages": [], "files": files, "truncated": False}

    def _size(self, user: str, arguments: Answer) -> Answer:
        record = self._record(user, arguments["session"])
        lines = [
            {"what": what, "own": 0, "total": self._bytes(user, stack), "files": len(self._merged(user, stack))}
            for what, stack in [
                *((volume, [*record.layers[volume], record.tops[volume]]) for volume in VOLUMES),
                *((f"snapshot {each['number']}", each["home"] + each["system"]) for each in record.snapshots),
            ]
        ]
        return {"lines": lines, "bytes": self._bytes(user, sorted(record.named())), "free": 10**9}

    def _hand_over(self, user: str, arguments: Answer) -> Answer:
        """Nothing happens before a job has begun, and no job of the fake ever says so."""
        return {"volumes": self._record(user, arguments["session"]).facts()}

    def _usage(self, user: str, _: Answer) -> Answer:
        return {"bytes": self._bytes(user, list(self.layers.get(user, {})))}

    def _bytes(self, user: str, layers: list[str]) -> int:
        return sum(len(content) for layer in layers for content in self.layers[user][layer].values())

    def _verify(self, user: str, arguments: Answer) -> Answer:
        record = self._record(user, arguments["session"])
        layers = record.named() - set(record.tops.values())
        missing = sorted(layers - self.layers[user].keys())
        return {"layers": len(layers), "recorded": 0, "problems": [f"{each} is not there" for each in missing]}

    def _flatten(self, user: str, arguments: Answer) -> Answer:
        record, done = self._begin(user, arguments)
        if done:
            return done
        record.unflattened = "No space left on device" if self.full else ""
        self._check_room()
        before = {volume: len(stack) for volume, stack in record.layers.items()}
        for volume, stack in record.layers.items():
            if len(stack) > 1:
                record.layers[volume] = [self._new_layer(user, self._merged(user, stack))]
        return self._done(record, arguments, {"layers_before": before})

    def _trash(self, user: str, arguments: Answer) -> Answer:
        key = (user, arguments["session"])
        self._check_closed(arguments["session"])
        if key in self.records:
            self.trash[key] = self.records.pop(key)
        return {}

    def _untrash(self, user: str, arguments: Answer) -> Answer:
        key = (user, arguments["session"])
        if key in self.trash:
            self.records[key] = self.trash.pop(key)
        return {"volumes": self._record(*key).facts()}

    def _purge(self, user: str, arguments: Answer) -> Answer:
        for records in (self.records, self.trash):
            records.pop((user, arguments["session"]), None)
        self._gc(user, {"over": [], "dry_run": False})
        return {}

    def _gc(self, user: str, arguments: Answer) -> Answer:
        going = sorted(session for owner, session in self.trash if owner == user and session in arguments["over"])
        kept = [
            record
            for records in (self.records, self.trash)
            for (owner, session), record in records.items()
            if owner == user and not (records is self.trash and session in going)
        ]
        named = set[str]().union(*(record.named() for record in kept))
        unnamed = sorted(self.layers.get(user, {}).keys() - named)
        found = [{"id": layer, "bytes": self._bytes(user, [layer])} for layer in unnamed]
        if not arguments["dry_run"]:
            for session in going:
                del self.trash[user, session]
            for layer in unnamed:
                del self.layers[user][layer]
        return {"layers": found, "sessions": going, "bytes": sum(each["bytes"] for each in found)}
