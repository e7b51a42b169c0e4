"""The registry for code on the event loop: each call runs in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from broker.controller.registry.registry import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from broker.controller.registry.models import Session

P = ParamSpec("P")
R = TypeVar("R")


def _in_thread(
    method: Callable[Concatenate[Registry, P], R],
) -> Callable[Concatenate[AsyncRegistry, P], Coroutine[Any, Any, R]]:
    """Return the coroutine function that calls `method` of the blocking registry in a thread."""

    @functools.wraps(method)
    async def call(self: AsyncRegistry, /, *args: P.args, **kwargs: P.kwargs) -> R:
        self._loop = asyncio.get_running_loop()
        return await asyncio.to_thread(getattr(self.blocking, method.__name__), *args, **kwargs)

    return call


class AsyncRegistry:
    """The calls of `Registry` as coroutines, with the same arguments, results and errors."""

    def __init__(self, blocking: Registry, on_change: Callable[[str, str], None] = lambda *_: None) -> None:
        """`on_change` is called on the event loop with the id and the owner of each session that has changed."""
        self.blocking = blocking
        """For code that makes several calls in one thread of its own."""
        self._on_change = on_change
        self._loop: asyncio.AbstractEventLoop | None = None
        """The event loop of the last call."""
        blocking.on_change = self._report

    def _report(self, session: Session) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed, so that no task waits
                self._loop.call_soon_threadsafe(self._on_change, session.id, session.owner)

    create = _in_thread(Registry.create)
    find = _in_thread(Registry.find)
    get = _in_thread(Registry.get)
    require = _in_thread(Registry.require)
    update = _in_thread(Registry.update)
    update_all = _in_thread(Registry.update_all)
    remove_history = _in_thread(Registry.remove_history)
    last_deleted = _in_thread(Registry.last_deleted)
    kept_deleted = _in_thread(Registry.kept_deleted)
    sessions_of = _in_thread(Registry.sessions_of)
    has_one_session = _in_thread(Registry.has_one_session)
    shared_sessions = _in_thread(Registry.shared_sessions)
    followers = _in_thread(Registry.followers)
    sessions_with_guests = _in_thread(Registry.sessions_with_guests)
    all_sessions = _in_thread(Registry.all_sessions)
    in_states = _in_thread(Registry.in_states)
    newest_in_states = _in_thread(Registry.newest_in_states)
    by_ids = _in_thread(Registry.by_ids)
    revisions_in = _in_thread(Registry.revisions_in)
    revisions = _in_thread(Registry.revisions)
    revoked_host_keys = _in_thread(Registry.revoked_host_keys)

    jobs_of = _in_thread(Registry.jobs_of)
    record = _in_thread(Registry.record)
    events_of = _in_thread(Registry.events_of)
    audit_events = _in_thread(Registry.audit_events)
    count_events = _in_thread(Registry.count_events)
    connections_of = _in_thread(Registry.connections_of)

    keys_of = _in_thread(Registry.keys_of)
    add_key = _in_thread(Registry.add_key)
    remove_key = _in_thread(Registry.remove_key)
    issue_certificate = _in_thread(Registry.issue_certificate)
    certificates_of = _in_thread(Registry.certificates_of)
    revoke_certificates = _in_thread(Registry.revoke_certificates)

    add_delegation = _in_thread(Registry.add_delegation)
    find_delegation = _in_thread(Registry.find_delegation)
    note_delegation_use = _in_thread(Registry.note_delegation_use)
    delegations_of = _in_thread(Registry.delegations_of)
    end_delegations = _in_thread(Registry.end_delegations)
    end_provider_logins = _in_thread(Registry.end_provider_logins)
    forget_delegations = _in_thread(Registry.forget_delegations)
    add_visit = _in_thread(Registry.add_visit)
    find_visit = _in_thread(Registry.find_visit)
    valid_visits = _in_thread(Registry.valid_visits)
    visited_services = _in_thread(Registry.visited_services)
    visited_sessions = _in_thread(Registry.visited_sessions)
    guest_visits = _in_thread(Registry.guest_visits)
    remove_visits = _in_thread(Registry.remove_visits)
    end_visits = _in_thread(Registry.end_visits)
