"""The controller's API as Python calls: what the command line, `berth connect` and the TUI speak through.

Blocking, on the standard library's HTTP client over a Unix socket: a command that runs for a moment should not load
an HTTP stack for it. Every failure is a BerthError, rebuilt from the answer's body.
"""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import quote, urlencode

from broker import errors, schema

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import BaseModel

TIMEOUT = 60.0
"""Seconds without a byte before an answer is given up; a waiting call adds what it asked to wait."""

_Answer = TypeVar("_Answer", bound="BaseModel")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Client:
    """One user's calls to the controller behind `api_socket`; a connection a call, so an object may live long."""

    def __init__(self, api_socket: Path) -> None:
        self._socket = api_socket

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
        connection = _UnixConnection(self._socket, TIMEOUT + extra_time)
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise errors.ControllerUnavailableError(
                f"the controller does not answer at {self._socket}: {error}",
                hint="`berth doctor` says what is missing; running sessions are not affected",
            ) from error
        finally:
            connection.close()
        if response.status >= 400:
            raise _failure(content, response.status)
        return content


def _session(name: str) -> str:
    return f"/v1/sessions/{quote(name, safe='')}"


def _failure(content: bytes, status: int) -> errors.BerthError:
    try:
        body = schema.ErrorBody.model_validate(json.loads(content))
    except ValueError:
        return errors.BerthError(f"the controller answered {status}", hint="the controller's log has the cause")
    return errors.from_reason(body.reason, body.message, body.hint)
