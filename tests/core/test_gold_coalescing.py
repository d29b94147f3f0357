"""A thousand callers at once are answered each for itself, by a handful of requests."""

from __future__ import annotations

import asyncio

import pytest

from nexus_redis_provider.core.errors import ConfigurationError, NotPublishedError, ServerError
from nexus_redis_provider.core.gold.coalescing import Coalescer
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.readers import AsyncGoldDataset
from tests.core.gold_datasets import numbers, publish, publish_packed, spec

pytestmark = pytest.mark.usefixtures("rows_may_stay")

CALLERS = 1_000


class Source:
    """What is asked, and answers when it is told to."""

    def __init__(self):
        self.asked, self.ended = [], 0
        self.may_answer = asyncio.Event()

    async def ask(self, keys):
        self.asked.append(list(keys))
        try:
            await self.may_answer.wait()
        finally:
            self.ended += 1
        for key in keys:
            if isinstance(key, Exception):
                raise key
        return [f"row of {key}" for key in keys]


@pytest.fixture
def source():
    return Source()


async def ticks(count=5):
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("layout", list(Layout))
async def test_a_thousand_callers_take_few_connections(endpoint, namespace, layout):
    publish_as = publish_packed if layout is Layout.PACKED else publish
    what = spec(namespace, layout=layout)
    await asyncio.to_thread(publish_as, endpoint, numbers(0, 500, 1), what)
    async with endpoint.async_client(max_connections=4) as client:
        dataset = AsyncGoldDataset(client, "sales", namespace=namespace)
        for value in (1, 2):
            found = await asyncio.gather(*(dataset.get(f"k{n % 510}") for n in range(CALLERS)))
            for number, row in enumerate(found):
                name, is_there = f"k{number % 510}", number % 510 < 500
                assert row == ({"id": name, "n": value} if is_there else None)
            found[0]["n"] = 0
            assert found[510]["n"] == value, "nobody gets what another one may change"
            await asyncio.to_thread(publish_as, endpoint, numbers(0, 500, 2), what)


async def test_what_one_caller_does_wrong_is_no_others_error(endpoint, namespace):
    await asyncio.to_thread(publish, endpoint, numbers(0, 50, 1), spec(namespace))
    async with endpoint.async_client() as client:
        dataset = AsyncGoldDataset(client, "sales", namespace=namespace)
        keys = ["k1", ("k2", "k3"), "k4", 1.5, "\ud800", {"id": "k5"}, {"no": "k6"}]
        found = await asyncio.gather(*map(dataset.get, keys), return_exceptions=True)
        refused = (ConfigurationError, ConfigurationError, UnicodeEncodeError, ConfigurationError)
        assert [found[place]["id"] for place in (0, 2, 5)] == ["k1", "k4", "k5"]
        assert [type(found[place]) for place in (1, 3, 4, 6)] == list(refused)


async def test_what_is_wrong_with_the_dataset_is_the_error_of_all(endpoint, namespace):
    async with endpoint.async_client() as client:
        dataset = AsyncGoldDataset(client, "sales", namespace=namespace)
        found = await asyncio.gather(*map(dataset.get, "abc"), return_exceptions=True)
        assert list(map(type, found)) == [NotPublishedError] * 3


async def test_who_comes_while_four_are_asked_goes_with_the_next(source):
    rows = Coalescer(source.ask)
    calls = []
    for number in range(7):
        calls += [asyncio.create_task(rows.get(f"{number}{letter}")) for letter in "ab"]
        await ticks()
    assert source.asked == [[f"{number}a", f"{number}b"] for number in range(4)]
    source.may_answer.set()
    names = [f"{number}{letter}" for number in range(7) for letter in "ab"]
    assert await asyncio.gather(*calls) == [f"row of {name}" for name in names]
    assert source.asked[4:] == [["4a", "4b", "5a", "5b", "6a", "6b"]]


async def test_a_request_has_no_more_than_a_thousand_keys(source):
    source.may_answer.set()
    rows = Coalescer(source.ask)
    await asyncio.gather(*(rows.get(number) for number in range(2_500)))
    assert list(map(len, source.asked)) == [1_000, 1_000, 500]


async def test_who_is_cancelled_leaves_the_others_their_answer(source):
    rows = Coalescer(source.ask)
    names = ("early", "late", "other")
    early, late, other = (asyncio.create_task(rows.get(name)) for name in names)
    await asyncio.sleep(0)
    early.cancel()
    await ticks()
    assert source.asked == [["late", "other"]], "whoever has left by then is not asked for"
    late.cancel()
    await ticks()
    source.may_answer.set()
    assert await other == "row of other"
    assert late.cancelled()
    assert early.cancelled()


async def test_a_request_that_nobody_waits_for_ends(source):
    rows = Coalescer(source.ask)
    calls = [asyncio.create_task(rows.get(name)) for name in "ab"]
    await ticks()
    calls[0].cancel()
    await ticks()
    assert source.ended == 0
    calls[1].cancel()
    await ticks()
    assert source.ended == 1


async def test_an_error_of_the_server_is_that_of_all_who_asked_and_of_no_others(source):
    rows = Coalescer(source.ask)
    first = [asyncio.create_task(rows.get(key)) for key in ("a", ServerError("full"), "b")]
    await ticks()
    second = asyncio.create_task(rows.get("c"))
    source.may_answer.set()
    found = await asyncio.gather(*first, return_exceptions=True)
    assert list(map(str, found)) == ["full"] * 3
    assert await second == "row of c"


def test_each_loop_has_its_own_requests():
    """Also where one ended with requests under way."""

    async def interrupted(rows, calls=20):
        for number in range(calls):
            asyncio.create_task(rows.get(number))  # noqa: RUF006 - it is to be lost
            await ticks()

    async def ask(keys):
        if keys != ["x"]:
            await asyncio.Event().wait()
        return keys

    rows = Coalescer(ask)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(interrupted(rows))
    assert asyncio.run(asyncio.wait_for(rows.get("x"), 5)) == "x"
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
