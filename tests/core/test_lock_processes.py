"""A lock among processes: they never overlap, may be stopped, and may fork."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import LockLostError
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.scripts import run


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
def stopped_in_line(
    endpoint: Endpoint, namespace: str, client: redis.Redis, wait_until: Any
) -> Iterator[Callable[[float], tuple[Any, Any]]]:
    """Has a process wait for the lock "a", which somebody holds, with a lease, and stops it there.

    Gives the process, and a pipe to it.
    """
    processes: list[Any] = []

    def start(lease: float) -> tuple[Any, Any]:
        context = multiprocessing.get_context("spawn")
        pipe, theirs = context.Pipe()
        process = context.Process(target=_enter_and_tell, args=(theirs, endpoint, namespace, lease))
        process.start()
        processes.append(process)
        wait_until(lambda: run(client, inspect("a", namespace=namespace)).length == 1)
        # It is in line before it blocks, and is let in only where it does.
        node = plain_client(client, LockKeys("a", namespace).lock)
        wait_until(lambda: node.info("clients")["blocked_clients"] == 1)
        os.kill(process.pid, signal.SIGSTOP)
        return process, pipe

    yield start
    # Also stopped ones end with the test: at its own end, pytest waits for all.
    for process in processes:
        process.kill()


def test_who_is_paused_as_its_turn_comes_asks_again(
    endpoint: Endpoint,
    namespace: str,
    client: redis.Redis,
    stopped_in_line: Callable[[float], tuple[Any, Any]],
) -> None:
    """The server lets it in meanwhile; when it goes on, its lease is over and another one's in."""
    with Lock(endpoint, "a", namespace=namespace) as first:
        paused, pipe = stopped_in_line(0.5)
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
    stopped_in_line: Callable[[float], tuple[Any, Any]],
) -> None:
    """However long the lease is that it wanted; who comes back has all of it."""
    with Lock(endpoint, "a", namespace=namespace):
        waiter, pipe = stopped_in_line(3600)
    assert run(client, who_holds("a", namespace=namespace)).expires_in <= 12
    os.kill(waiter.pid, signal.SIGCONT)
    assert pipe.poll(30)
    assert run(client, who_holds("a", namespace=namespace)).expires_in > 3500
    pipe.send("leave")
    waiter.join(30)
    assert waiter.exitcode == 0


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
