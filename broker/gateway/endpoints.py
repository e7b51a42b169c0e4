"""A cache of the sessions' last endpoints, for the time while the controller is away.

The cache is used only then. Its endpoint and its permission may be out of date: a user who has lost the permission can
still connect until the entry expires, if the session accepts the user's key. The gateway verifies each time that the
session's own sshd answers (verifier), so an old endpoint leads nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from broker.errors import BerthError, ControllerUnavailableError
from broker.ssh.host_names import SessionHost

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from broker.gateway.response_cache import ResponseCache
    from broker.schema.connections import ResolveAnswer


class EndpointResolver:
    """Asks `ask(user, target)`, and answers from the cache while the controller is away."""

    def __init__(
        self, ask: Callable[[str, str], Awaitable[ResolveAnswer]], memory: ResponseCache[ResolveAnswer], domain: str
    ) -> None:
        """`domain`: the suffix of session host names."""
        self._ask = ask
        self._memory = memory
        self._domain = domain

    async def resolve(self, user: str, target: str) -> ResolveAnswer:
        """Return the endpoint of the session that `user` names by `target`, or raise the controller's refusal.

        A session has one entry in the cache for all spellings of its name. Text that is no session name is refused
        here, and not sent to the controller. The cache serves owners alone: without a controller, no guest gets in.
        """
        host = SessionHost.parse(target, self._domain, user)
        if host.owner != user:
            return await self._ask(user, target)
        question = (user, host.canonical_name(self._domain))
        try:
            answer = await self._ask(user, target)
        except ControllerUnavailableError:
            known = self._memory.recall(question)
            if known is None:
                raise
            return known
        except BerthError:
            self._memory.forget(question)
            raise
        self._memory.keep(question, answer)
        return answer
