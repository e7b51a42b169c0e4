"""The context of one run of `berth`: output, configuration and client, each loaded when it is first used."""

# ruff: noqa: PLC0415 - commands import what they need when they run (ADR 0071)

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from broker.client.client import Client
    from broker.client.http import PendingResponse
    from broker.config.settings import Config


class Invocation:
    """The object that click passes to every command."""

    def __init__(self) -> None:
        self.json = False
        self.names: list[str] = []
        """The sessions that the command line names, for suggestions."""

    @cached_property
    def config(self) -> Config:
        from broker.config.settings import load_config

        return load_config()

    @cached_property
    def client(self) -> Client:
        """A client of the controller. In personal mode, the controller is started if it does not run.

        In site mode, each call waits while systemd starts the controller.
        """
        from broker.client.client import Client
        from broker.config.file import site_socket

        place = site_socket()
        if place is not None:
            return Client(place, revive=lambda: self._wait_for_start(place))
        from broker.client.autostart import open_client

        return open_client(self.config, self._wait_for_start)

    @cached_property
    def api_socket(self) -> Path:
        """The controller's socket. In site mode, the modules of `client` are not loaded."""
        from broker.config.file import site_socket

        place = site_socket()
        if place is None:
            _ = self.client
            place = self.config.api_socket
        return place

    @cached_property
    def storage(self) -> Path:
        """The user's own directory of sessions and layers."""
        from broker.config.user_storage import user_storage

        return user_storage(self.config)

    def post(self, path: str, request: Mapping[str, object]) -> PendingResponse:
        """Send a request; the caller can load the response's types while the controller works."""
        import json

        from broker.client import http
        from broker.config.file import site_socket
        from broker.errors import ControllerUnavailableError

        body = json.dumps(request)
        try:
            return http.send_request(self.api_socket, "POST", path, body)
        except ControllerUnavailableError:  # no controller received the request
            if site_socket() is None:
                raise
            self._wait_for_start(self.api_socket)
            return http.send_request(self.api_socket, "POST", path, body)

    def _wait_for_start(self, place: Path) -> None:
        from broker.cli.output import print_note
        from broker.client.service_status import wait_for_start

        wait_for_start(place, self.config.restart_wait, tell=(lambda _: None) if self.json else print_note)


pass_invocation = click.make_pass_decorator(Invocation)


def _want_json(ctx: click.Context, _param: click.Parameter, value: bool) -> None:
    if value:
        invocation = ctx.find_object(Invocation)
        assert invocation is not None
        invocation.json = True


json_option = click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_want_json,
    help="Print JSON on stdout, and a failure as a JSON object on stderr.",
)
"""`--json`, the same before and after the command's name."""
