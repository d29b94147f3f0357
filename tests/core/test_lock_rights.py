"""The rights that docs/locks.md names are enough for locks."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import LockHeldError, NotReplicatedError, ServerError
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.locks.audits import audit
from nexus_redis_provider.core.locks.listing import lock_names, lock_states
from nexus_redis_provider.core.locks.protocol import break_lock, inspect, leave, steal, who_holds
from nexus_redis_provider.core.scripts import run
from tests.core.gold_datasets import user
from tests.core.lock_calls import renewed_since, take
from tests.kinds import KIND

PAGE = (Path(__file__).parents[2] / "docs" / "locks.md").read_text("utf-8").replace("\\|", "|")
IN_A_CLUSTER = "all, in a Cluster"
RIGHTS = re.findall(
    rf"^\| (holders|replicas|operators|{IN_A_CLUSTER}) \| `([^`]+)` \|$", PAGE, re.MULTILINE
)


def use_everything(endpoint: Endpoint) -> None:
    """Whatever a lock does, once."""

    def wait() -> None:
        with Lock(endpoint, "a", wait=20, poll=0.5):
            pass

    with endpoint.client() as client:
        with Lock(endpoint, "a", lease=2) as lock:
            thread = threading.Thread(target=wait)
            thread.start()
            while not run(client, inspect("a")).length:
                lock.ensure_held()
            with pytest.raises(LockHeldError):
                Lock(endpoint, "a", wait=0.1).__enter__()
            renewed_since(lock, lock._hold.renewed_at)
        thread.join()
        asyncio.run(_use_async(endpoint))
        run(client, take("run", "r1", deployment="d"))
        run(client, take("run", "r2", deployment="d", stay=60))
        holder = run(client, who_holds("run"))
        assert holder is not None
        run(client, steal(holder))
        run(client, leave("run", "r2"))


async def _use_async(endpoint: Endpoint) -> None:
    async def wait() -> None:
        async with AsyncLock(endpoint, "b", wait=20, poll=0.1):
            pass

    async with AsyncLock(endpoint, "b"):
        waiting = asyncio.create_task(wait())
        await asyncio.sleep(0.5)
    await waiting


def use_replicas(endpoint: Endpoint) -> None:
    with pytest.raises(NotReplicatedError):
        Lock(endpoint, "a", replicas=9, replica_timeout=0.05).__enter__()


def operate(endpoint: Endpoint) -> None:
    with endpoint.client() as client:
        run(client, take("stuck", "o"))
        assert "stuck" in set(lock_names(client))
        states = dict(lock_states(client, ["stuck"]))
        assert not isinstance(states["stuck"], ServerError), states["stuck"]
        assert run(client, break_lock("stuck", by="me", why="test"))
        assert audit(client, "stuck")


USES: dict[str, Callable[[Endpoint], None]] = {
    "holders": use_everything,
    "replicas": use_replicas,
    "operators": operate,
}


@pytest.fixture
def limited(endpoint: Endpoint, client: redis.Redis) -> Any:
    """Makes a user with some rights, and the endpoint of that user."""
    with ExitStack() as stack:

        def make(*rights: str) -> Endpoint:
            keys = ("~nexus:lock:*", "&nexus:lock-wake:*")
            rules = ("resetchannels", *keys, "-@all", *rights)
            return stack.enter_context(user(client, endpoint, "limited", *rules))

        yield make
    client.flushall()


def rights_of(use: str, *more: str) -> list[str]:
    wanted = {"holders": ["holders"], "replicas": ["holders", "replicas"]}
    parts = [*wanted.get(use, ["holders", "operators"]), *more]
    return [f"+{name.lower()}" for part, names in RIGHTS if part in parts for name in names.split()]


def test_the_page_names_rights() -> None:
    assert [part for part, _ in RIGHTS] == [*USES, IN_A_CLUSTER]


@pytest.mark.parametrize("use", USES)
def test_the_rights_are_enough(use: str, limited: Any) -> None:
    more = [IN_A_CLUSTER] if KIND == "cluster" else []
    USES[use](limited(*rights_of(use, *more)))
