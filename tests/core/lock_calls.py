"""Lock calls by both kinds of client, and in short."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.locks.protocol import Claim, acquire
from nexus_redis_provider.core.locks.states import Acquisition
from nexus_redis_provider.core.scripts import Call, arun, run

Perform = Callable[[Call[Any]], Awaitable[Any]]


@asynccontextmanager
async def performing(kind: str, endpoint: Endpoint) -> AsyncIterator[Perform]:
    if kind == "async":
        async with endpoint.async_client() as client:
            yield partial(arun, client)
    else:
        with endpoint.client() as client:

            async def perform(call: Call[Any]) -> Any:
                return run(client, call)

            yield perform


def take(
    name: str,
    owner: str,
    lease: float = 60,
    *,
    stay: float | None = None,
    bell: str = "-",
    ticket: int = 0,
    **claim: Any,
) -> Call[Acquisition]:
    return acquire(Claim(name, owner, **claim), lease, stay=stay, bell=bell, ticket=ticket)
