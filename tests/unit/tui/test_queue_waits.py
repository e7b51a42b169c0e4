"""The waits of the last day: what counts as a wait, and how it is drawn."""

from __future__ import annotations

from broker.schema.sessions import JobView
from tests.fakes.tui_feed import NOW, make_view
from tui.core.queue_waits import DAY_S, MAX_BARS, MAX_SESSIONS, QueueWait, find_waits, recently_submitted, wait_lines


def job(
    submission: int, asked: float, started: float | None = None, ended: float | None = None, **more: int
) -> JobView:
    """A job with times in seconds before NOW."""
    times = {"asked_at": asked, "submitted_at": asked, "started_at": started, "ended_at": ended}
    before = {name: None if value is None else NOW - value for name, value in times.items()}
    return JobView.model_validate({"submission": submission, "job_id": 4000 + submission} | before | more)


def test_wait_is_from_the_submission_to_the_start_or_until_now() -> None:
    waits = find_waits("dev", [job(2, 300), job(1, 7200, 7000, 400)], NOW)
    assert waits == [QueueWait("dev", NOW - 7200, 200, True), QueueWait("dev", NOW - 300, 300, False)]


def test_successor_waits_only_from_the_end_of_the_job_before_it() -> None:
    assert find_waits("dev", [job(1, 9000, 8000, 500), job(2, 4000, 470)], NOW)[1].seconds == 30
    assert len(find_waits("dev", [job(1, 9000, 8000), job(2, 4000)], NOW)) == 1


def test_later_run_in_a_kept_job_is_no_wait() -> None:
    kept = job(2, 400, 399).model_copy(update={"job_id": 4001})
    assert [wait.seconds for wait in find_waits("dev", [kept, job(1, 9000, 8000, 500)], NOW)] == [1000]


def test_waits_below_a_second_are_no_full_bars() -> None:
    waits = [QueueWait("dev", NOW - 60, 0.25, True), QueueWait("dev", NOW - 90, 0, True)]
    _, short, none = wait_lines(waits, NOW, 66)
    assert "|█████░░░░░░░░░░░░░░░|" in short
    assert "|░░░░░░░░░░░░░░░░░░░░|" in none


def test_unknown_and_old_waits_do_not_count() -> None:
    jobs = [
        job(1, DAY_S + 60, DAY_S, 90),
        job(2, 80, 70, 60, restarts=1),
        job(3, 50, None, 40),
        job(4, 30).model_copy(update={"job_id": None}),
    ]
    assert find_waits("dev", jobs, NOW) == []


def test_only_sessions_with_a_job_of_the_last_day_are_read_and_not_too_many() -> None:
    views = [make_view(f"s{number:02}", submitted_at=NOW - number) for number in range(40)]
    old = make_view("old", "stopped", submitted_at=NOW - DAY_S - 1)
    assert recently_submitted([*views, old, make_view("new", "stopped")], NOW) == [
        f"s{number:02}" for number in range(MAX_SESSIONS)
    ]


def test_bars_are_to_scale_and_the_latest_is_first() -> None:
    waits = [QueueWait("dev", NOW - 3600, 600, True), QueueWait("a-name-that-is-too-long", NOW - 60, 60, False)]
    title, last, first = wait_lines(waits, NOW, 66)
    assert title.startswith("Your waits in the queue, last 24 h: ")
    assert title.endswith(": 2 jobs, median 5 min, longest 10 min")
    assert first.endswith(" dev              |████████████████████| 10 min")
    assert last.endswith(" a-name-that-is-… |██░░░░░░░░░░░░░░░░░░| 1 min so far")


def test_many_waits_are_counted_and_the_latest_drawn() -> None:
    lines = wait_lines([QueueWait("dev", NOW - number, 0, True) for number in range(50)], NOW, 80)
    assert len(lines) == 1 + MAX_BARS
    assert "50 jobs, median 0 s, longest 0 s" in lines[0]
    assert wait_lines([], NOW, 80)[0].endswith(": none")
