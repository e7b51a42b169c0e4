"""HAProxy's statistics, and their sums over processes that come and go."""

from __future__ import annotations

import pytest

from broker.web.haproxy_statistics import BrowserTraffic, TrafficTotals, read_activity, read_traffic
from broker.web.master_socket import HaproxyCommandError

HEAD = "# pxname,svname,scur,stot,bin,bout,dreq,hrsp_1xx,hrsp_2xx,hrsp_3xx,hrsp_4xx,hrsp_5xx,\n"
OUTPUT = (
    f"{HEAD}browsers,FRONTEND,3,9,100,2000,2,1,5,1,2,0,\nservices,BACKEND,1,4,80,1000,3,1,3,0,0,0,\n"
    "berth,BACKEND,0,2,20,1000,1,0,2,1,0,0,\n\n"
)


def test_traffic_is_that_of_the_frontend() -> None:
    traffic = read_traffic(OUTPUT)
    assert traffic.connections == 3
    assert dict(traffic.counts) == {
        "1xx": 1,
        "2xx": 5,
        "3xx": 1,
        "4xx": 2,
        "5xx": 0,
        "received": 100,
        "sent": 2000,
        "denied": 2,
    }


def test_activity_is_that_of_each_server() -> None:
    output = f"{HEAD}services,s1,1,7,0,0,0,0,0,0,0,0,\nservices,s2,0,2,0,0,0,0,0,0,0,0,\n"
    assert read_activity(output) == {"s1": (1, 7), "s2": (0, 2)}


def test_process_that_has_ended_says_nothing() -> None:
    assert read_traffic("") == BrowserTraffic(0, read_traffic("").counts)
    assert read_activity("") == {}


@pytest.mark.parametrize("text", [f"{HEAD}browsers,FRONTEND,x,,,,,,,,,,\n", "# pxname\nbrowsers\n"])
def test_invalid_statistics_are_an_error(text: str) -> None:
    with pytest.raises(HaproxyCommandError):
        read_traffic(text)


def test_counters_never_decrease_over_reloads() -> None:
    totals, traffic = TrafficTotals(), read_traffic(OUTPUT)
    assert totals.add({1: traffic}).counts["2xx"] == 5
    reloaded = totals.add({2: read_traffic(f"{HEAD}browsers,FRONTEND,1,1,1,1,0,0,1,0,0,0,\n"), 1: traffic})
    assert (reloaded.counts["2xx"], reloaded.connections) == (6, 4)
    for _ in range(2):
        later = totals.add({2: read_traffic(f"{HEAD}browsers,FRONTEND,0,2,2,2,0,0,2,0,0,0,\n")})
        assert (later.counts["2xx"], later.connections) == (7, 0)
