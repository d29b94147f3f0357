"""A cold cache is filled once, and completely or with an error."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError, FillError, LockHeldError
from nexus_redis_provider.core.fills import fill_lock, fill_once, write
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.requirements import Requirement
from tests.guarded import own_server


def test_values_as_they_are_and_containers_as_json(client: redis.Redis, namespace: str) -> None:
    values = {
        "text": ("ä", "ä".encode()),
        "bytes": (b"\x00\xff", b"\x00\xff"),
        "int": (7, b"7"),
        "float": (0.1, b"0.1"),
        "decimal": (Decimal("1.10"), b"1.10"),
        "dict": ({"a": [1, "ä"]}, '{"a":[1,"ä"]}'.encode()),
        "list": ([], b"[]"),
    }
    pairs = {f"{namespace}:{name}": value for name, (value, _) in values.items()}
    assert write(client, pairs, ttl=60) == len(values)
    for name, (_, wire) in values.items():
        assert client.get(f"{namespace}:{name}") == wire
        assert 0 < client.ttl(f"{namespace}:{name}") <= 60


def test_pairs_are_streamed_in_batches(client: redis.Redis, namespace: str) -> None:
    produced = 0
    seen_at_batch = []

    def pairs() -> Iterator[tuple[str, int]]:
        nonlocal produced
        for produced in range(1, 2501):
            yield f"{namespace}:{produced}", produced

    written = write(client, pairs(), ttl=60, before_batch=lambda: seen_at_batch.append(produced))
    assert written == 2500
    assert seen_at_batch == [1000, 2000, 2500]
    assert client.get(f"{namespace}:2500") == b"2500"


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([("a", None)], "The value of 'a' is of type NoneType"),
        ([("a", True)], "of type bool"),
        ([("a", {"x": {1}})], "no JSON"),
        ([("a", [float("nan")])], "no JSON"),
        ([(7, "a")], "key 7"),
        ([("", "a")], "key ''"),
        ([("a", "b", "c")], "pairs of key and value"),
        ([5], "pairs of key and value"),
    ],
)
def test_what_cannot_be_written(client: redis.Redis, pairs: Any, message: str) -> None:
    with pytest.raises(FillError, match=message):
        write(client, pairs)
    assert client.exists("a") == 0


def test_every_reply_is_checked() -> None:
    with (
        own_server("--maxmemory", "4mb", "--maxmemory-policy", "noeviction") as small,
        small.endpoint.client() as client,
        pytest.raises(FillError, match=r"The server refused .* of 1000 writes.*maxmemory"),
    ):
        write(client, ((f"k{i}", "x" * 1000) for i in range(5000)))


def test_a_fill_gets_the_missing_keys_and_answers_what_is_there(
    endpoint: Endpoint, client: redis.Redis, namespace: str
) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(4))
    client.set(keys[0], "there", ex=60)
    asked = []

    def load(missing: list[str]) -> dict[str, Any]:
        asked.append(missing)
        return dict.fromkeys(missing[:2], "filled")

    requirement = Requirement(keys=keys, namespace=namespace)
    written, found = fill_once(endpoint, requirement, load, ttl=60)
    assert asked == [list(keys[1:])]
    assert written == 2
    assert found.missing == keys[3:]
    assert client.get(keys[0]) == b"there"
    written, found = fill_once(endpoint, requirement, load, ttl=60)
    assert (written, found.is_warm) == (1, True)
    assert fill_once(endpoint, requirement, load)[0] == 0
    assert len(asked) == 2


def test_one_filler_at_a_time(endpoint: Endpoint, namespace: str) -> None:
    requirement = Requirement(keys=(f"{namespace}:a", f"{namespace}:b"), namespace=namespace)
    turned = Requirement(keys=requirement.keys[::-1], namespace=namespace)
    with (
        Lock(endpoint, fill_lock(requirement), namespace=namespace),
        pytest.raises(LockHeldError),
    ):
        fill_once(endpoint, turned, lambda _: pytest.fail("two fillers"))


def test_the_lock_is_free_after_a_failing_load(endpoint: Endpoint, namespace: str) -> None:
    requirement = Requirement(pattern=f"{namespace}:*:filled", namespace=namespace)

    def fail(missing: list[str]) -> dict[str, Any]:
        assert missing == []
        raise ZeroDivisionError

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            fill_once(endpoint, requirement, fail)


def test_a_dataset_is_not_filled(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="publish"):
        fill_once(endpoint, Requirement(dataset="d"), lambda _: {})


def fill_and_log(endpoint: Endpoint, namespace: str, log: str, ready: Any) -> None:
    keys = tuple(f"{namespace}:{i}" for i in range(200))

    def load(missing: list[str]) -> dict[str, Any]:
        with Path(log).open("a") as file:
            file.write(f"{len(missing)}\n")
        return dict.fromkeys(missing, 1)

    requirement = Requirement(keys=keys, namespace=namespace)
    ready.wait()
    while True:
        try:
            _, found = fill_once(endpoint, requirement, load, ttl=60)
        except LockHeldError:
            continue
        assert found.is_warm
        return


def test_processes_fill_once(
    endpoint: Endpoint, client: redis.Redis, namespace: str, tmp_path: Path
) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (endpoint, namespace, str(tmp_path / "log"), context.Barrier(4))
    processes = [context.Process(target=fill_and_log, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "200\n"
    assert client.get(f"{namespace}:199") == b"1"


def test_a_cache_may_evict() -> None:
    with own_server("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru") as cache:
        filled, warmth = fill_once(cache.endpoint, Requirement(keys=("a",)), lambda _: {"a": 1})
    assert filled == 1
    assert warmth.is_warm
