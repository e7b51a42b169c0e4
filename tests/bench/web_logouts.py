"""Browsers that log in, open a WebSocket and are logged out. Runs in the lab, as a user.

    web_logouts.py SESSION SERVICE COUNT

Prints, as JSON, for each how many milliseconds pass from the request for the logout to the end of the WebSocket. The
logout must be answered as closed. Another browser stays, so that the tunnel does.
"""

from __future__ import annotations

import json
import sys
import threading
import time

from tests.site.web_visitor import VisitError, WebVisitor


def main(session: str, service: str, count: str) -> None:
    staying = WebVisitor()
    staying.log_in()
    host, cookie = staying.enter(session, service)
    with staying.websocket(host, cookie) as kept:
        times = [_log_out(session, service) for _ in range(int(count))]
        kept.settimeout(0.01)
        try:
            kept.recv(1)
        except TimeoutError:
            pass
        else:
            raise VisitError("the other browser's connection was closed, too")
    print(json.dumps(times))


def _log_out(session: str, service: str) -> float:
    visitor = WebVisitor()
    visitor.log_in()
    host, cookie = visitor.enter(session, service)
    with visitor.websocket(host, cookie) as connection:
        ends: list[float] = []

        def wait_for_end() -> None:
            try:
                while connection.recv(4096):
                    pass
            except ConnectionResetError:
                pass
            ends.append(time.perf_counter())

        waiting = threading.Thread(target=wait_for_end)
        waiting.start()
        began = time.perf_counter()
        visitor.log_out()
        waiting.join()
    return (ends[0] - began) * 1000


if __name__ == "__main__":
    main(*sys.argv[1:])
