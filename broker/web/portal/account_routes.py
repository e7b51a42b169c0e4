"""Pages of what belongs to the user and the site: the cluster, ssh keys, and logged-in browsers."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from starlette.routing import Route

from broker.text.cluster import cluster_notes, describe_largest, queue_lines
from broker.text.cluster_tables import largest_table, node_table, partition_table
from broker.web.portal.portal_context import redirect, show_page, user_calls

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    from broker.schema.web import LogoutAnswer

_NOTICES = {
    "yes": "The browser is logged out.",
    "later": "The browser is logged out. Its open pages of services are closed within a minute.",
}


async def show_cluster(request: Request) -> Response:
    """Show what is free on the cluster, and the queue."""
    calls = user_calls(request)
    view = await calls.cluster()
    tables = [
        ("Starts now, by partition", largest_table(view)),
        ("Partitions: used and all", partition_table(view)),
        ("Nodes: used and all", node_table(view.nodes)),
    ]
    return await show_page(
        calls,
        "cluster.html",
        current="/cluster",
        largest="" if view.largest is None else describe_largest(view.largest),
        tables=[(caption, table) for caption, table in tables if table[1]],
        lines=[*queue_lines(view), *cluster_notes(view, time.time())],
        command=["berth", "cluster"],
    )


async def show_keys(request: Request) -> Response:
    """Show the keys that may log in by ssh."""
    calls = user_calls(request)
    rows = [(key.fingerprint, key.algorithm, key.comment, key.source) for key in await calls.keys()]
    return await show_page(calls, "keys.html", current="/keys", rows=rows, command=["berth", "key", "list"])


async def show_browsers(request: Request) -> Response:
    """Show the logged-in browsers of the user."""
    calls = user_calls(request)
    return await show_page(
        calls,
        "browsers.html",
        current="/browsers",
        browsers=await calls.browsers(),
        notice=_NOTICES.get(request.query_params.get("out", ""), ""),
        command=["berth", "browsers"],
    )


async def end_browser(request: Request) -> Response:
    """Log one browser out."""
    return _after_logout(await user_calls(request).end_browser(request.path_params["browser"]))


async def end_all_browsers(request: Request) -> Response:
    """Log all browsers out, also this one: the next page is the login."""
    return _after_logout(await user_calls(request).end_all_browsers())


def _after_logout(answer: LogoutAnswer) -> Response:
    return redirect(f"/browsers?out={'yes' if answer.closed else 'later'}")


ACCOUNT_ROUTES = [
    Route("/cluster", show_cluster, methods=["GET"]),
    Route("/keys", show_keys, methods=["GET"]),
    Route("/browsers", show_browsers, methods=["GET"]),
    Route("/browsers/logout", end_all_browsers, methods=["POST"]),
    Route("/browsers/{browser}/logout", end_browser, methods=["POST"]),
]
