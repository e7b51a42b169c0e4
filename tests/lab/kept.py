"""The kept state of a session for tests: from inside, by the commands, and in the layers on the file system."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.lab.conftest import User

STORAGE = "/shared/berth"
SIDES = {"home": "~/mark", "system": "/opt/mark"}
"""The files in which `Kept.mark` leaves its marks, as the session sees them."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One session of a user's."""

    user: User
    name: str

    def view(self) -> dict[str, Any]:
        return self.user.show(self.name)

    def start(self, *words: str, profile: str = "base") -> None:
        self.user.ok("start", self.name, "--profile", profile, "--timeout", "60", *words, seconds=90)

    def again(self) -> None:
        """Start it as it is, and be sure that exactly one job carries it."""
        self.user.ok("start", self.name, "--timeout", "60", seconds=90)
        view = self.view()
        assert self.user.jobs(view["id"]) == [str(view["job_id"])]

    def stop(self) -> None:
        self.user.ok("stop", self.name, "--timeout", "60", seconds=90)

    def says(self, script: str, *, stdin: bytes = b"") -> str:
        """Return the output of a shell script in the session, where it must succeed."""
        return self.user.ok("exec", self.name, "--", "bash", "-euc", script, stdin=stdin).removesuffix("\n")

    def mark(self, text: str) -> None:
        """Leave a mark in each volume, from inside."""
        self.says(f"for f in {' '.join(SIDES.values())}; do echo {text} >$f; done")

    def marks(self) -> list[str]:
        """The marks of home and system, from inside; `-` where there is none."""
        return self.says(f"for f in {' '.join(SIDES.values())}; do cat $f 2>/dev/null || echo -; done").split()

    def snapshot(self, *label: str) -> dict[str, Any]:
        """Take one, by the command; what is said of it."""
        made: dict[str, Any] = json.loads(self.user.ok("snapshot", self.name, *label, "--json", "--timeout", "60"))
        return made

    def snapshots(self) -> list[dict[str, Any]]:
        status, body = self.user.request(f"/v1/sessions/{self.name}/snapshots")
        assert status == HTTPStatus.OK, body
        found: list[dict[str, Any]] = json.loads(body)["snapshots"]
        return found

    def numbers(self) -> list[int]:
        return [each["number"] for each in self.snapshots()]

    def done(self, verb: str) -> dict[str, Any]:
        """The session, once its last operation, of that verb, is done; AssertionError if it has failed."""

        def over(view: dict[str, Any]) -> bool:
            operation = view["operation"]
            return operation is not None and operation["status"] != "pending"

        view = self.user.until(self.name, over, what=f"the {verb} of {self.name} to be over", seconds=90)
        assert (view["operation"]["verb"], view["operation"]["status"]) == (verb, "done"), view
        return view

    def verified(self) -> None:
        """Every layer is what it was when it was first read."""
        assert self.post("verify")["problems"] == []

    def post(self, path: str, **body: object) -> dict[str, Any]:
        """Ask the API for something of this session; the answer. It must not be refused."""
        status, answer = self.send(path, body=body)
        assert status in {HTTPStatus.OK, HTTPStatus.ACCEPTED}, answer
        told: dict[str, Any] = json.loads(answer)
        return told

    def send(self, path: str, *, method: str = "POST", body: dict[str, Any] | None = None) -> tuple[int, str]:
        """The same, whatever comes of it; status 0 if the controller dies meanwhile."""
        return self.user.request(
            f"/v1/sessions/{self.name}{'/' * (path[:1] not in {'', '?'})}{path}",
            "-X",
            method,
            *(as_json(body) if body else ()),
        )

    def disk(self) -> Disk:
        """The same from outside, also while neither a job nor the controller runs."""
        return Disk(self.user, str(self.view()["id"]))


@dataclass(frozen=True, slots=True)
class Disk:
    """The session's record and layers, read and written as their owner."""

    user: User
    id: str

    @property
    def root(self) -> str:
        return f"{STORAGE}/{self.user.name}"

    @property
    def directory(self) -> str:
        return f"{self.root}/sessions/{self.id}"

    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.sh(f"cat {self.directory}/volumes.json"))
        return found

    def sh(self, script: str) -> str:
        return self.user.site.lab.sh(script, user=self.user.name)

    def tree(self, layer: str) -> str:
        return f"{self.root}/layers/{layer}/tree"

    def layers(self) -> set[str]:
        """All layers of the user's."""
        return set(self.sh(f"ls {self.root}/layers").split())

    def mark(self, text: str) -> None:
        """Leave a mark in each volume, as a job would have; there must be none."""
        record = self.record()
        home, system = self.tree(record["home"]["top"]), self.tree(record["system"]["top"])
        self.sh(f"echo {text} >{home}/mark; mkdir -p -m 755 {system}/opt; echo {text} >{system}/opt/mark")

    def marks(self) -> list[str]:
        """The marks that the next job will find; `-` for none."""
        record = self.record()
        return [self._mark(record[side], path) for side, path in (("home", "mark"), ("system", "opt/mark"))]

    def _mark(self, volume: dict[str, Any], path: str) -> str:
        files = [f"{self.tree(layer)}/{path}" for layer in [volume["top"], *reversed(volume["layers"])]]
        return self.sh(f"cat {' '.join(files)} 2>/dev/null | head -1") or "-"


def as_json(body: dict[str, Any]) -> list[str]:
    return ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
