"""A lock among threads, and amid signals and interrupts."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import redis

from nexus_redis_provider.core.clients import thread_client
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import (
    ConfigurationError,
)
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks import Lock
from nexus_redis_provider.core.locks.protocol import inspect, who_holds
from nexus_redis_provider.core.nodes import Nodes
from nexus_redis_provider.core.scripts import run


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


@pytest.fixture
def interrupt(
    endpoint: Endpoint, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """Has an interrupt come just when the server has answered and nobody has read it yet."""

    def interrupt() -> None:
        taker = thread_client(endpoint)
        if isinstance(taker, Nodes):
            taker = taker.at(LockKeys("a", namespace).lock, lambda node: node)
        monkeypatch.setattr(taker.connection, "read_response", interrupted)

    def interrupted(*_: Any, **__: Any) -> Any:
        monkeypatch.undo()
        raise KeyboardInterrupt

    return interrupt


def test_an_interrupt_spoils_no_later_lock(
    endpoint: Endpoint, namespace: str, client: redis.Redis, interrupt: Callable[[], None]
) -> None:
    with Lock(endpoint, "a", namespace=namespace):
        pass
    interrupt()
    with pytest.raises(KeyboardInterrupt):
        Lock(endpoint, "a", namespace=namespace).__enter__()
    for _ in range(3):
        with Lock(endpoint, "a", namespace=namespace) as lock:
            assert run(client, who_holds("a", namespace=namespace)).token == lock.token


def test_an_interrupt_at_the_end_spoils_no_object(
    endpoint: Endpoint, namespace: str, interrupt: Callable[[], None]
) -> None:
    with pytest.raises(KeyboardInterrupt), Lock(endpoint, "a", namespace=namespace) as lock:
        interrupt()
    with lock:
        lock.ensure_held()
