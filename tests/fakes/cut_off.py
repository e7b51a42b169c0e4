"""A holder of the registry's lock whose machine falls silent, in a network of its own: `python -m tests.fakes.cut_off`.

Prints the seconds from the cut until the holder ceased to act, and until the server let go of the lock. The waits are a
tenth of the real ones.
"""

from __future__ import annotations

import asyncio
import subprocess
import time

from broker.controller.registry import lock as registry_lock
from broker.controller.registry.lock import LOCK_CLASS, hold_registry
from broker.errors import BerthError
from tests.postgresql import PostgreSQL, running

LIMIT_S = 30.0


async def _cut_off(server: PostgreSQL) -> None:
    async with hold_registry("postgresql+psycopg://berth@127.0.0.1/postgres") as lock:
        lock.check()
        _set_network("down")
        cut_at = time.monotonic()
        ceased_at = 0.0
        while await asyncio.to_thread(_is_held, server):
            if not ceased_at and not _may_act(lock):
                ceased_at = time.monotonic()
            assert time.monotonic() - cut_at < LIMIT_S, "the server still has the lock"
            await asyncio.sleep(0.02)
        print(f"{ceased_at - cut_at:.2f} {time.monotonic() - cut_at:.2f}")


def _set_network(state: str) -> None:
    subprocess.run(["ip", "link", "set", "lo", state], check=True)


def _may_act(lock: registry_lock.RegistryLock) -> bool:
    try:
        lock.check()
    except BerthError:
        return False
    return True


def _is_held(server: PostgreSQL) -> bool:
    """Over the Unix socket, which needs no network."""
    return bool(server.ask("select 1 from pg_locks where granted and classid = :key", key=LOCK_CLASS))


if __name__ == "__main__":
    _set_network("up")
    registry_lock.SERVER_SETTINGS.update(
        tcp_keepalives_idle="1", tcp_keepalives_interval="1", tcp_keepalives_count="2", tcp_user_timeout="3000"
    )
    registry_lock.CONFIRM_EVERY_S, registry_lock.ANSWER_WITHIN_S, registry_lock.VALID_S = 0.2, 1.0, 1.5
    with running("127.0.0.1") as made:
        asyncio.run(_cut_off(made))
