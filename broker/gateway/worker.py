"""A worker process that serves the gateway's port: `berth gateway --worker`, started by the master."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from typing import TYPE_CHECKING

import asyncssh

from broker.gateway import metrics
from broker.gateway.master import LISTEN_FD, READY, STOP_SIGNALS, USAGE_FD
from broker.gateway.server import Gateway
from broker.gateway.usage import Usage, UsageTable
from broker.gateway.watchdog import beat

if TYPE_CHECKING:
    from broker.gateway.settings import GatewaySettings

_log = logging.getLogger(__name__)


def run_worker(settings: GatewaySettings) -> None:
    """Serve the socket from the master until the worker is retired or stopped (module `master`).

    asyncssh logs only warnings; Berth logs a line for each forward.
    """
    asyncssh.set_log_level(logging.WARNING)
    usage = _usage()
    asyncio.run(_serve(settings, socket.socket(fileno=LISTEN_FD), usage))


def _usage() -> Usage:
    """Return the counts of users, which all workers share."""
    try:
        return Usage(UsageTable(USAGE_FD))
    except ValueError as error:  # the master is of an older program without a table, and has not been reloaded yet
        _log.warning("users are counted by this worker alone until the next reload: %s", error)
        return Usage()


def _publish_counters(settings: GatewaySettings, gateway: Gateway) -> contextlib.AbstractAsyncContextManager[None]:
    """Publish the counters if the gateway serves metrics."""
    directory = settings.metrics_directory
    return contextlib.nullcontext() if directory is None else metrics.publish_counters(gateway.counts, directory)


async def _serve(settings: GatewaySettings, sock: socket.socket, usage: Usage) -> None:
    """SIGTERM and SIGINT drain it, and a second one ends the drain; end of file on standard input retires it."""
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    retired = asyncio.Event()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, task.cancel)

    def let_go() -> None:
        loop.remove_reader(0)
        retired.set()

    loop.add_reader(0, let_go)
    beating = asyncio.create_task(beat(usage))
    with contextlib.suppress(asyncio.CancelledError):
        async with Gateway(settings, sock, usage) as gateway, _publish_counters(settings, gateway):
            os.write(1, READY)
            os.close(1)
            await retired.wait()
            await gateway.retire()
    beating.cancel()
    _log.info("ended")
