"""Send the requests of a client, and parse the responses."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from broker import errors
from broker.client import http
from broker.client.answers import parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pydantic import BaseModel

_Answer = TypeVar("_Answer", bound="BaseModel")


class RequestSender:
    """Sends requests to the controller behind `api_socket`, each with its own connection.

    If no process listens, `revive` is called and the request is sent once more.
    """

    def __init__(self, api_socket: Path, revive: Callable[[], None] | None = None) -> None:
        self._socket = api_socket
        self._revive = revive

    def _get(self, path: str, answer: type[_Answer], *, extra_time: float = 0) -> _Answer:
        return parse_answer(answer, self._request("GET", path, extra_time=extra_time))

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
        return parse_answer(answer, self._request(method, path, content, extra_time=extra_time))

    def _request(self, method: str, path: str, body: str | None = None, *, extra_time: float = 0) -> bytes:
        try:
            pending = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            pending = http.send_request(self._socket, method, path, body, extra_time=extra_time)
        return pending.answer()
