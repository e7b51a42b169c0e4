"""Send the requests of a client, and parse the responses."""

# ruff: noqa: PLC0415 - `berth list` needs no quotation, whose module takes long to import

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, TypeVar

from broker import errors
from broker.client import http
from broker.client.answers import parse_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from pydantic import BaseModel

_Result = TypeVar("_Result")
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
        send = functools.partial(http.send_request, self._socket, method, path, body, extra_time=extra_time)
        return self._send_with_revival(send).answer()

    def _send_with_revival(self, send: Callable[[], _Result]) -> _Result:
        """Return the result of `send`; if no process listens, revive the controller and send once more."""
        try:
            return send()
        except errors.ControllerUnavailableError:
            if self._revive is None:
                raise
            self._revive()
            return send()


def quote_segment(text: str) -> str:
    """Quote a text as one segment of a path."""
    from urllib.parse import quote

    return quote(text, safe="")


def encode_query(fields: Mapping[str, object]) -> str:
    """Return the query with these fields, with its question mark; empty without fields."""
    from urllib.parse import urlencode

    return "?" + urlencode(fields) if fields else ""
