"""The controller's API as Python calls: what the command line, `berth connect` and the TUI speak through.

Blocking, over a Unix socket: a command that runs for a moment should not load an HTTP stack for it. Every failure is a
BerthError, rebuilt from the answer's body.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from broker import errors, schema, wire

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")


class Client:
    """One user's calls to the controller behind `api_socket`; a connection a call, so an object may live long.

    `revive` is called when nobody listens there; then the call, which nobody took, is made once more.
    """

    def __init__(self, api_socket: Path, revive: Callable[[], None] | None = None) -> None:
        self._socket = api_socket
        self._revive = revive

    def health(self) -> bool:
        """Whether the controller answers at all."""
        try:
            self._request("GET", "/v1/health")
        except errors.ControllerUnavailableError:
            return False
        return True

    def site(self) -> schema.SiteView:
        return self._get("/v1/site", schema.SiteView)

    def sessions(self) -> list[schema.SessionView]:
        return self._get("/v1/sessions", schema.SessionList).sessions

    def session(self, name: str, *, after: int | None = None, wait: float = 0) -> schema.SessionView:
        """The session; with `after`, as soon as its revision is above that, or unchanged after `wait` seconds."""
        query = "" if after is None else "?" + urlencode({"after": after, "wait": wait})
        return self._get(_session(name) + query, schema.SessionView, extra_time=wait)

    def start(self, name: str, request: schema.StartRequest) -> schema.SessionView:
        return self._send("POST", _session(name) + "/start", schema.SessionView, request)

    def stop(self, name: str) -> schema.SessionView:
        return self._send("POST", _session(name) + "/stop", schema.SessionView)

    def delete(self, name: str) -> schema.SessionView:
        return self._send("DELETE", _session(name), schema.SessionView)

    def log(self, name: str, *, tail: int = 65536) -> str:
        """The last `tail` bytes of the session's job log."""
        return self._get(f"{_session(name)}/log?bytes={tail}", schema.LogText).text

    def events(self, name: str | None = None) -> list[schema.EventView]:
        path = "/v1/events" if name is None else _session(name) + "/events"
        return self._get(path, schema.EventList).events

    def keys(self) -> list[schema.KeyView]:
        return self._get("/v1/keys", schema.KeyList).keys

    def add_key(self, public_key: str) -> schema.KeyView:
        return self._send("POST", "/v1/keys", schema.KeyView, schema.KeyAdd(public_key=public_key))

    def remove_key(self, fingerprint: str) -> schema.KeyView:
        return self._send("DELETE", f"/v1/keys/{quote(fingerprint, safe='')}", schema.KeyView)

    def resolve(self, user: str, target: str) -> schema.ResolveAnswer:
        """Where the session that `target` names listens now; refusals say why in words meant for a terminal."""
        return self._send("POST", "/v1/resolve", schema.ResolveAnswer, schema.ResolveRequest(user=user, target=target))

    def doctor(self) -> list[schema.DoctorCheck]:
        return self._get("/v1/doctor", schema.DoctorReport).checks

    def rebuild(self) -> schema.RebuildReport:
        """Bring every session back into an empty registry from the manifests; may take minutes."""
        return self._send("POST", "/v1/rebuild", schema.RebuildReport, extra_time=3600)

    def _get(self, path: str, answer: type[_Answer], *, extra_time: float = 0) -> _Answer:
        return answer.model_validate_json(self._request("GET", path, extra_time=extra_time))

    def _send(
        self,
        method: str,
        path: str,
        answer: type[_Answer],
        body: BaseModel | None = None,
        *,
        extra_time: float = 0,
    ) -> _Answer:
        content = None if body is None else body.model_dump_json()
        return answer.model_validate_json(self._request(method, path, content, extra_time=extra_time))

    def _request(self, method: str, path: str, body: str | None = None, *, extra_time: float = 0) -> bytes:
        try:
            asked = wire.ask(self._socket, method, path, body, extra_time=extra_time)
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            asked = wire.ask(self._socket, method, path, body, extra_time=extra_time)
        return asked.answer()


def _session(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"
