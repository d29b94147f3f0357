"""The promises of a lock in plain Python, kept by every client on every server."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.clusters import Nodes, plain_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
    LockHeldError,
    LockLostError,
    NotReplicatedError,
    UnreachableError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import AsyncLock, Lock
from nexus_redis_provider.core.locks.protocol import inspect, release, who_holds
from nexus_redis_provider.core.scripts import run, run_all
from tests.core.lock_calls import take
from tests.guarded import own_server

NOWHERE = Endpoint.from_url("redis://127.0.0.1:1?retries=0")


@asynccontextmanager
async def holding(kind: str, endpoint: Endpoint, name: str, **options: Any) -> AsyncIterator[Any]:
    if kind == "async":
        async with AsyncLock(endpoint, name, **options) as lock:
            yield lock
        return
    lock = Lock(endpoint, name, **options)
    await asyncio.to_thread(lock.__enter__)
    try:
        yield lock
    finally:
        await asyncio.to_thread(lock.__exit__, None, None, None)


async def test_a_context_holds_and_gives_back(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace) as lock:
        assert lock.held
        lock.ensure_held()
        assert run(client, who_holds("a", namespace=namespace)).token == lock.token
        with pytest.raises(LockHeldError) as refused:
            async with holding(kind, endpoint, "a", namespace=namespace):
                pytest.fail("two holders")
        assert refused.value.owner == lock.owner
    assert not lock.held
    assert run(client, who_holds("a", namespace=namespace)) is None


async def test_a_context_waits_its_turn(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async def turn(order: list[str]) -> None:
        async with holding(kind, endpoint, "a", namespace=namespace, wait=10, poll=0.01):
            order.append("in")
            await asyncio.sleep(0)
            order.append("out")

    order: list[str] = []
    await asyncio.gather(*(turn(order) for _ in range(5)))
    assert order == ["in", "out"] * 5


async def test_a_wait_ends(kind: str, endpoint: Endpoint, namespace: str) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace):
        with pytest.raises(LockHeldError, match="after waiting"):
            async with holding(kind, endpoint, "a", namespace=namespace, wait=0.05, poll=0.01):
                pytest.fail("two holders")


async def test_a_context_renews_its_lease(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    seen = set()
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:

        def renewed_five_times() -> bool:
            seen.add(client.hget(LockKeys("a", namespace).lock, lock.owner))
            return len(seen) > 5

        # Five renewals at a third of the lease take longer than the lease.
        await eventually(renewed_five_times)
        lock.ensure_held()
        assert not lock.lost.is_set()


async def test_a_context_is_told_of_its_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        client.delete(LockKeys("a", namespace).lock)
        run(client, take("a", "thief", 60, namespace=namespace))
        await eventually(lock.lost.is_set)
        with pytest.raises(LockLostError, match="thief"):
            lock.ensure_held()
    assert run(client, who_holds("a", namespace=namespace)).owner == "thief"


async def test_a_silent_server_is_a_loss(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace, lease=0.5) as lock:
        node = plain_client(client, LockKeys("a", namespace).lock)
        node.client_pause(1000)
        await eventually(lock.lost.is_set)
        assert not lock.held
        node.client_unpause()


async def test_the_error_of_the_work_is_not_hidden(
    kind: str, endpoint: Endpoint, namespace: str
) -> None:
    async def fail_when_the_server_is_gone() -> None:
        async with holding(kind, endpoint, "a", namespace=namespace) as lock:
            lock._endpoint = NOWHERE
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_when_the_server_is_gone()


async def test_async_contexts_end_even_amid_a_renewal(endpoint: Endpoint, namespace: str) -> None:
    async def hold_for(turns: int) -> None:
        name = f"a{turns}"
        async with AsyncLock(endpoint, name, namespace=namespace, lease=0.1):
            for _ in range(turns):
                await asyncio.sleep(0)

    await asyncio.wait_for(asyncio.gather(*map(hold_for, range(0, 400, 4))), 20)


async def test_without_a_server_there_is_no_lock(kind: str) -> None:
    with pytest.raises(UnreachableError):
        async with holding(kind, NOWHERE, "a"):
            pytest.fail("a lock from nowhere")


def add_ones(endpoint: Endpoint, namespace: str, path: str, times: int) -> None:
    """Counts in a file by read, add, write: any overlap loses a count."""
    file = Path(path)
    for _ in range(times):
        with Lock(endpoint, "counter", namespace=namespace, wait=60) as lock:
            count, token = map(int, file.read_text().split())
            assert lock.token > token, "tokens must rise in the order of holding"
            file.write_text(f"{count + 1} {lock.token}")


def test_processes_never_overlap(endpoint: Endpoint, namespace: str, tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0 0")
    context = multiprocessing.get_context("spawn")
    arguments = (endpoint, namespace, str(file), 25)
    processes = [context.Process(target=add_ones, args=arguments) for _ in range(6)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 6
    assert file.read_text().split()[0] == "150"


def _enter_and_tell(pipe: Any, endpoint: Endpoint, namespace: str, lease: float) -> None:
    with Lock(endpoint, "a", namespace=namespace, lease=lease, wait=60, poll=2) as lock:
        lock.ensure_held()
        pipe.send(lock.token)
        pipe.recv()


@pytest.fixture
def started() -> Iterator[list[Any]]:
    """Processes that end with the test, also stopped ones: at its end, pytest waits for all."""
    started: list[Any] = []
    yield started
    for process in started:
        process.kill()


def test_who_is_paused_as_its_turn_comes_asks_again(
    endpoint: Endpoint,
    namespace: str,
    client: redis.Redis,
    wait_until: Any,
    started: list[Any],
) -> None:
    """The server lets it in meanwhile; when it goes on, its lease is over and another one's in."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    paused = context.Process(target=_enter_and_tell, args=(theirs, endpoint, namespace, 0.5))
    with Lock(endpoint, "a", namespace=namespace) as first:
        paused.start()
        started.append(paused)
        wait_until(lambda: run(client, inspect("a", namespace=namespace)).length == 1)
        # It is in line before it blocks, and is let in only where it does.
        node = plain_client(client, LockKeys("a", namespace).lock)
        wait_until(lambda: node.info("clients")["blocked_clients"] == 1)
        os.kill(paused.pid, signal.SIGSTOP)
    let_in = run(client, who_holds("a", namespace=namespace))
    assert let_in.token > first.token
    with Lock(endpoint, "a", namespace=namespace, wait=30) as other:
        assert other.token > let_in.token
        os.kill(paused.pid, signal.SIGCONT)
        assert not pipe.poll(1)
    assert pipe.poll(30)
    assert pipe.recv() > other.token
    pipe.send("leave")
    paused.join(30)
    assert paused.exitcode == 0


def test_who_vanishes_as_its_turn_comes_holds_for_a_while_only(
    endpoint: Endpoint,
    namespace: str,
    client: redis.Redis,
    wait_until: Any,
    started: list[Any],
) -> None:
    """However long the lease is that it wanted; who comes back has all of it."""
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe()
    waiter = context.Process(target=_enter_and_tell, args=(theirs, endpoint, namespace, 3600))
    with Lock(endpoint, "a", namespace=namespace):
        waiter.start()
        started.append(waiter)
        wait_until(lambda: run(client, inspect("a", namespace=namespace)).length == 1)
        # It is in line before it blocks, and is let in only where it does.
        node = plain_client(client, LockKeys("a", namespace).lock)
        wait_until(lambda: node.info("clients")["blocked_clients"] == 1)
        os.kill(waiter.pid, signal.SIGSTOP)
    assert run(client, who_holds("a", namespace=namespace)).expires_in <= 12
    os.kill(waiter.pid, signal.SIGCONT)
    assert pipe.poll(30)
    assert run(client, who_holds("a", namespace=namespace)).expires_in > 3500
    pipe.send("leave")
    waiter.join(30)
    assert waiter.exitcode == 0


def test_a_signal_handler_may_lock_while_its_thread_waits(
    endpoint: Endpoint, namespace: str, client: redis.Redis, wait_until: Any
) -> None:
    tokens: list[int] = []

    def handle(*_: Any) -> None:
        with Lock(endpoint, "other", namespace=namespace) as other:
            tokens.append(other.token)

    def hold() -> None:
        with Lock(endpoint, "a", namespace=namespace) as lock:
            tokens.append(lock.token)
            held.set()
            wait_until(lambda: run(client, inspect("a", namespace=namespace)).length == 1)
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            wait_until(lambda: len(tokens) == 2)

    held, before = threading.Event(), signal.signal(signal.SIGUSR1, handle)
    try:
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait(30)
        with Lock(endpoint, "a", namespace=namespace, wait=30) as lock:
            assert run(client, who_holds("a", namespace=namespace)).token == lock.token
        holder.join(30)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert len(tokens) == 2
    assert run(client, who_holds("other", namespace=namespace)) is None


def test_a_lock_is_not_entered_twice(endpoint: Endpoint, namespace: str) -> None:
    lock = Lock(endpoint, "twice", namespace=namespace)
    with lock:
        with pytest.raises(ConfigurationError, match="entered by this very object"), lock:
            pass
        lock.ensure_held()
    with lock:
        lock.ensure_held()


def test_an_object_is_for_one_thread_at_a_time(endpoint: Endpoint, namespace: str) -> None:
    lock = Lock(endpoint, "shared object", namespace=namespace, wait=10)
    errors: list[ConfigurationError] = []

    def enter() -> None:
        try:
            with lock:
                pass
        except ConfigurationError as error:
            errors.append(error)

    with lock:
        threads = [threading.Thread(target=enter) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lock.ensure_held()
    assert len(errors) == 4


def test_threads_with_objects_of_their_own_never_overlap(
    endpoint: Endpoint, namespace: str
) -> None:
    inside, most, tokens = 0, 0, []

    def work() -> None:
        nonlocal inside, most
        for _ in range(10):
            with Lock(endpoint, "threads", namespace=namespace, wait=30) as lock:
                inside += 1
                most = max(most, inside)
                tokens.append(lock.token)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert tokens == sorted(set(tokens))
    assert len(tokens) == 80


async def test_a_semaphore_in_plain_python(kind: str, endpoint: Endpoint, namespace: str) -> None:
    inside, most = 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with holding(kind, endpoint, "s", permits=2, wait=30, namespace=namespace):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.03)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(5)))
    assert most == 2


async def test_shared_locks_in_plain_python(kind: str, endpoint: Endpoint, namespace: str) -> None:
    shared = {"mode": "shared", "namespace": namespace}
    async with (
        holding(kind, endpoint, "rw", **shared),
        holding(kind, endpoint, "rw", **shared),
    ):
        with pytest.raises(LockHeldError):
            async with holding(kind, endpoint, "rw", namespace=namespace):
                pytest.fail("an exclusive holder beside shared ones")
    async with holding(kind, endpoint, "rw", namespace=namespace):
        with pytest.raises(LockHeldError):
            async with holding(kind, endpoint, "rw", **shared):
                pytest.fail("a shared holder beside an exclusive one")


async def test_waiters_are_served_in_their_order(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    order: list[int] = []

    async def wait(number: int) -> None:
        async with holding(kind, endpoint, "a", namespace=namespace, wait=30):
            order.append(number)

    async with holding(kind, endpoint, "a", namespace=namespace):
        tasks = []
        for number in range(4):
            tasks.append(asyncio.create_task(wait(number)))
            await eventually(
                lambda due=number + 1: run(client, inspect("a", namespace=namespace)).length == due
            )
    await asyncio.gather(*tasks)
    assert order == list(range(4))


async def test_who_gives_up_leaves_the_line(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    async with holding(kind, endpoint, "a", namespace=namespace):
        with pytest.raises(LockHeldError, match=r"after waiting 0\.. s at place 1 of the line"):
            async with holding(kind, endpoint, "a", namespace=namespace, wait=0.1):
                pytest.fail("two holders")
        assert run(client, inspect("a", namespace=namespace)).length == 0


def _hold_in_child(endpoint: Endpoint, lock: Lock, answers: Any) -> None:
    try:
        lock.ensure_held()
        answers.put("held")
    except LockLostError:
        answers.put("not held")
    lock.__exit__(None, None, None)
    with Lock(endpoint, "child", namespace=lock._claim.namespace) as own:
        answers.put(own.token)


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_fork_holds_nothing_and_frees_nothing(
    endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with Lock(endpoint, "a", namespace=namespace, lease=1) as lock:
        child = context.Process(target=_hold_in_child, args=(endpoint, lock, answers))
        child.start()
        assert answers.get(timeout=20) == "not held"
        assert answers.get(timeout=20) > lock.token
        child.join(20)
        assert child.exitcode == 0
        lock.ensure_held()
        assert run(client, who_holds("a", namespace=namespace)).owner == lock.owner


async def test_a_lock_waits_for_its_replicas(kind: str, namespace: str, wait_until: Any) -> None:
    with own_server() as primary:
        options = {"namespace": namespace, "replicas": 1}
        with pytest.raises(NotReplicatedError, match="confirmed by 0 of 1 replica"):
            async with holding(kind, primary.endpoint, "a", replica_timeout=0.1, **options):
                pytest.fail("a lock without its replica")
        with primary.endpoint.client() as client:
            assert run(client, who_holds("a", namespace=namespace)) is None
            with own_server("--replicaof", f"127.0.0.1 {primary.port}") as replica:
                wait_until(lambda: client.info("replication")["connected_slaves"] == 1)
                wait_until(
                    lambda: client.info("replication").get("slave0", {}).get("state") == "online"
                )
                async with holding(
                    kind, primary.endpoint, "a", replica_timeout=4, **options
                ) as lock:
                    with replica.endpoint.client() as reader:
                        field = reader.hget(LockKeys("a", namespace).lock, lock.owner)
                    assert field.startswith(str(lock.token).encode())


@pytest.mark.parametrize("replicas", [-1, 1.5, True, "1", None])
def test_replicas_are_a_whole_number(endpoint: Endpoint, replicas: Any) -> None:
    """The server takes -1, and waits for none."""
    with pytest.raises(ConfigurationError, match=r"Lock 'a': replicas must be a whole number"):
        Lock(endpoint, "a", replicas=replicas)


def test_a_replica_timeout_fits_into_the_clients(endpoint: Endpoint) -> None:
    with pytest.raises(ConfigurationError, match="replica_timeout must be less than"):
        Lock(endpoint, "a", replicas=1, replica_timeout=5)


async def test_waiting_outlives_a_restart(kind: str, namespace: str, eventually: Any) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        entered = asyncio.Event()

        async def wait() -> int:
            async with holding(kind, endpoint, "a", namespace=namespace, wait=60, poll=0.2) as lock:
                entered.set()
                return lock.token

        with server.endpoint.client() as client:
            held = run(client, take("a", "holder", namespace=namespace))
            waiting = asyncio.create_task(wait())
            await eventually(lambda: run(client, inspect("a", namespace=namespace)).length)
        server.stop()
        await asyncio.sleep(0.5)
        assert not waiting.done()
        await asyncio.to_thread(server.start)
        with server.endpoint.client() as client:
            assert run(client, who_holds("a", namespace=namespace)).token == held.token
            assert not entered.is_set()
            run(client, release("a", "holder", held.token, namespace=namespace))
        assert await asyncio.wait_for(waiting, 20) > held.token


async def test_a_lock_whose_server_was_away_at_the_end_is_given_back_later(
    kind: str, namespace: str, eventually: Any
) -> None:
    with own_server("--appendonly", "yes", "--appendfsync", "always") as server:
        endpoint = replace(server.endpoint, retries=0)
        async with holding(kind, endpoint, "a", lease=30, namespace=namespace) as lock:
            server.stop()
        await asyncio.to_thread(server.start)
        with server.endpoint.client() as client:
            # A lease that has run out is still there to be seen.
            await eventually(lambda: not run(client, who_holds("a", namespace=namespace)), 40)
            assert run(client, inspect("a", namespace=namespace)).token == lock.token


async def test_an_earlier_object_of_an_owner_gives_nothing_back(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    options = {"owner": "work", "namespace": namespace}
    old = holding(kind, endpoint, "a", **options)
    await old.__aenter__()
    async with holding(kind, endpoint, "a", **options) as lock:
        await old.__aexit__(None, None, None)
        lock.ensure_held()
        assert run(client, who_holds("a", namespace=namespace)).token == lock.token
    assert run(client, who_holds("a", namespace=namespace)) is None


def test_an_interrupt_spoils_no_later_lock(
    endpoint: Endpoint, namespace: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The interrupt comes just when the server has answered and nobody has read it yet."""
    with Lock(endpoint, "a", namespace=namespace):
        pass
    taker = thread_client(endpoint)
    if isinstance(taker, Nodes):
        taker = taker.at(LockKeys("a", namespace).lock, lambda node: node)
    connection = taker.connection

    def interrupted(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr(connection, "read_response", interrupted)
    with pytest.raises(KeyboardInterrupt):
        Lock(endpoint, "a", namespace=namespace).__enter__()
    for _ in range(3):
        with Lock(endpoint, "a", namespace=namespace) as lock:
            assert run(client, who_holds("a", namespace=namespace)).token == lock.token


def test_renewal_goes_on_after_an_answer_that_makes_no_sense(
    endpoint: Endpoint, namespace: str, monkeypatch: pytest.MonkeyPatch, wait_until: Any
) -> None:
    tries = []

    def nonsense(*arguments: Any) -> Any:
        tries.append(arguments)
        if len(tries) <= 2:
            raise redis.exceptions.InvalidResponse("nonsense")
        return run_all(*arguments)

    monkeypatch.setattr("nexus_redis_provider.core.locks.renewal.run_all", nonsense)
    with Lock(endpoint, "a", namespace=namespace, lease=1) as lock:
        wait_until(lambda: len(tries) > 4)
        lock.ensure_held()
        assert not lock.lost.is_set()


async def test_a_slow_server_costs_no_lock(
    kind: str, endpoint: Endpoint, namespace: str, client: redis.Redis
) -> None:
    """Taking the lock takes so long that most of the lease is over by then."""
    plain_client(client, LockKeys("a", namespace).lock).client_pause(800)
    async with holding(kind, endpoint, "a", namespace=namespace, lease=1) as lock:
        for _ in range(150):
            lock.ensure_held()
            await asyncio.sleep(0.01)


async def test_whoever_cancels_the_end_of_a_block_keeps_no_lock(
    endpoint: Endpoint, namespace: str, client: redis.Redis, eventually: Any
) -> None:
    async def hold(number: int) -> None:
        async with AsyncLock(endpoint, f"c{number}", namespace=namespace):
            await asyncio.sleep(0.01)

    tasks = [asyncio.create_task(hold(number)) for number in range(30)]
    for turn, task in enumerate(tasks):
        asyncio.get_running_loop().call_later(0.01 + turn * 0.0007, task.cancel)
    await asyncio.wait(tasks)

    def all_free() -> bool:
        names = (f"c{number}" for number in range(30))
        return not any(run(client, who_holds(name, namespace=namespace)) for name in names)

    await eventually(all_free)


async def test_a_lock_helps_to_clean_up_after_a_cancellation(
    endpoint: Endpoint, namespace: str
) -> None:
    cleaned = []

    async def work() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            async with AsyncLock(endpoint, "cleanup", namespace=namespace) as lock:
                cleaned.append(lock.token)

    task = asyncio.create_task(work())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert cleaned
