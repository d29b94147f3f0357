"""Random interleavings of readers, writers, invalidations and losses, each compared with a model.

A reader takes a stamp, computes, and stores: three steps, between which anything may happen. Each
entry remembers which version of its sources it was computed from.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from nexus_redis_provider.core.keys import generation_key
from nexus_redis_provider.core.tags import invalidate, stamp
from nexus_redis_provider.embedded import EmbeddedServer
from tests.conftest import new_namespace

TAGS = ("a", "b", "c")
one = st.sampled_from(TAGS)
some = st.frozensets(one, min_size=1).map(lambda tags: tuple(sorted(tags)))
picks = st.integers(0, 100)


@dataclass
class Reader:
    """Who has missed an entry, and makes it anew.

    Attributes:
        epochs: how often each tag had moved when the stamp was taken.
        seen: versions of the sources; empty before it computes.
    """

    tags: tuple[str, ...]
    stamp: str
    epochs: tuple[int, ...]
    seen: dict[str, int] = field(default_factory=dict)


class TagMachine(RuleBasedStateMachine):
    """What hypothesis walks through."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.namespace = new_namespace()
        self.sources, self.epochs = Counter[str](), Counter[str]()
        # What readers must see at least: what had changed before an invalidation that returned.
        self.confirmed = Counter[str]()
        self.readers: list[Reader] = []
        self.entries: dict[tuple[tuple[str, ...], str], Reader] = {}
        self.generations: dict[str, set[int]] = {tag: set() for tag in TAGS}

    def teardown(self) -> None:
        if keys := list(self.client.scan_iter(f"{self.namespace}*", count=1000)):
            self.client.unlink(*keys)

    def epochs_of(self, tags: tuple[str, ...]) -> tuple[int, ...]:
        return tuple(self.epochs[tag] for tag in tags)

    def stamp(self, tags: tuple[str, ...]) -> str:
        return stamp(self.client, tags, namespace=self.namespace)

    @rule(tags=some)
    def look_up(self, tags: tuple[str, ...]) -> None:
        found = self.entries.get((tags, self.stamp(tags)))
        if found is not None:
            assert all(found.seen[tag] >= self.confirmed[tag] for tag in tags), "a stale hit"
        fresh = {reader.epochs for (known, _), reader in self.entries.items() if known == tags} & {
            self.epochs_of(tags)
        }
        assert (found is not None) == bool(fresh), "a hit, or a miss, for no reason"

    @rule(tags=some)
    def begin(self, tags: tuple[str, ...]) -> None:
        self.readers.append(Reader(tags, self.stamp(tags), self.epochs_of(tags)))

    @rule(which=picks)
    def compute(self, which: int) -> None:
        for reader in self._picked(which):
            reader.seen = {tag: self.sources[tag] for tag in reader.tags}

    @rule(which=picks)
    def store(self, which: int) -> None:
        for reader in self._picked(which):
            if reader.seen:
                self.entries[reader.tags, reader.stamp] = reader
                self.readers.remove(reader)

    def _picked(self, which: int) -> Iterator[Reader]:
        if self.readers:
            yield self.readers[which % len(self.readers)]

    @rule(tag=one)
    def change(self, tag: str) -> None:
        self.sources[tag] += 1

    @rule(tags=some)
    def invalidate(self, tags: tuple[str, ...]) -> None:
        generations = invalidate(self.client, tags, namespace=self.namespace)
        for tag in tags:
            self.confirmed[tag] = self.sources[tag]
            self._moved(tag, generations[tag])

    @rule(tag=one)
    def lose(self, tag: str) -> None:
        self.client.delete(generation_key(tag, self.namespace))
        self.epochs[tag] += 1

    @rule(tag=one, hours=st.integers(1, 10))
    def set_the_clock_back(self, tag: str, hours: int) -> None:
        """What was minted before is ahead of the clock now."""
        seconds, microseconds = self.client.time()
        ahead = (seconds + 3600 * hours) * 10**6 + microseconds
        self.client.set(generation_key(tag, self.namespace), ahead, ex=3600)
        self._moved(tag, ahead)

    def _moved(self, tag: str, generation: int) -> None:
        assert generation not in self.generations[tag]
        self.generations[tag].add(generation)
        self.epochs[tag] += 1


def test_nothing_stale_is_found(server: EmbeddedServer) -> None:
    with server.endpoint.client() as client:
        run_state_machine_as_test(
            functools.partial(TagMachine, client),
            settings=settings(
                max_examples=100,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
