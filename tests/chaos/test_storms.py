"""The short form of the storms: whoever is not served is told why, and nothing is left behind."""

from __future__ import annotations

import re

import pytest

from nexus_redis_provider.embedded import find_server
from tests.chaos.storms import CROWD, Aftermath, come_at_once, exhaust_pool, exhaust_server
from tests.conftest import need_server
from tests.kinds import KIND

_CROWD = 400
# However busy the machine is.
_PATIENT = {"connect_timeout": 60.0, "read_timeout": 60.0}


@pytest.fixture(autouse=True)
def _server() -> None:
    need_server(find_server)


def told(aftermath: Aftermath, what: str) -> int:
    """How many were told that, and not another thing; all works again, and nothing is left."""
    assert aftermath.is_over, aftermath
    assert aftermath.served + aftermath.errors.total() == aftermath.callers
    assert all(re.match(what, text) for text in aftermath.errors), aftermath.errors
    return aftermath.errors.total()


async def test_two_thousand_clients_at_once() -> None:
    # Each reads all certificates that its machine trusts before it shakes hands.
    crowd = _CROWD if KIND == "tls" else CROWD
    assert told(await come_at_once(crowd, **_PATIENT), "") == 0


async def test_a_pool_that_is_exhausted() -> None:
    assert told(await exhaust_pool(_CROWD), "PoolExhaustedError: ") == _CROWD - 50
    assert told(await exhaust_pool(_CROWD, wait=60), "") == 0


async def test_a_server_that_takes_no_more_clients() -> None:
    # Over TLS it hangs up before the handshake, with no word of why.
    why = "" if KIND == "tls" else ".* max number of clients reached. Raise its maxclients"
    refused = told(await exhaust_server(_CROWD, **_PATIENT), f"UnreachableError: {why}")
    assert refused == _CROWD - 100
