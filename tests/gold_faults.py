"""What must hold after a fault, whatever it was: readers saw whole versions, and nothing is left.

Every row says of which version it is, so that a read which mixes two of them shows.
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Self

import redis

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import NotPublishedError, UnreachableError
from nexus_redis_provider.core.gold.chains import BucketMap
from nexus_redis_provider.core.gold.manifests import Layout, Mode
from nexus_redis_provider.core.gold.pages import decode_page
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.keys import GoldKeys
from tests.core.gold_datasets import publish as publish_rows
from tests.core.gold_datasets import publish_packed, spec
from tests.topologies import until

# Between two reads, so that what is read has some of the processor, too.
_PAUSE_S = 0.03


@dataclass(frozen=True, slots=True)
class Shape:
    """A layout and mode, and the rows of its versions.

    Attributes:
        count: of rows.
        every: of how many rows one has the number of its version; the others never change.
    """

    layout: Layout
    mode: Mode = Mode.SNAPSHOT
    count: int = 300
    every: int = 1

    def __str__(self) -> str:
        return (self.mode if self.mode is Mode.DELTA else self.layout).value

    def rows(self, version: int) -> dict[str, int]:
        """Keys and numbers of all rows of the version with a number."""
        return {f"k{n}": 0 if n % self.every else version for n in range(self.count)}


JSON, HASH, PACKED = map(Shape, (Layout.JSON, Layout.HASH, Layout.PACKED))
# So few rows change that it writes overlays.
DELTA = Shape(Layout.PACKED, Mode.DELTA, every=10)
SHAPES = (JSON, HASH, PACKED, DELTA)


def publish(
    endpoint: Endpoint, keys: GoldKeys, shape: Shape, version: int, *, fence: int | None = None
) -> None:
    """Publish a version in this process."""
    plan = spec(
        keys.namespace, dataset=keys.dataset, layout=shape.layout, mode=shape.mode, fence=fence
    )
    if shape.layout is Layout.PACKED:
        publish_packed(endpoint, shape.rows(version), plan, shares=2)
    else:
        publish_rows(endpoint, shape.rows(version), plan)


def staging(client: redis.Redis, keys: GoldKeys) -> dict[str, int]:
    """The versions that are being staged, with the number of their rows so far."""
    versions = [version.decode() for version in client.zrange(keys.staging, 0, -1)]
    return {version: int(client.hget(keys.attempts(version), "rows") or 0) for version in versions}


class Reader:
    """Reads all rows of a dataset again and again, in both ways, for as long as the block lasts.

    Attributes:
        wrong: what no reader may ever see, in words.
        seen: how often each version was read, by its number.
        unanswered: reads in vain, since the server did not answer.
    """

    def __init__(self, endpoint: Endpoint, keys: GoldKeys, shape: Shape) -> None:
        self.endpoint, self.keys, self.shape = endpoint, keys, shape
        self.wrong: list[str] = []
        self.seen: Counter[int] = Counter()
        self.unanswered = 0
        self._newest = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._read_on)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def reads_on(self) -> None:
        """Return when all was read once more, from now on; fails if something wrong was seen."""
        # The one that is under way has begun before.
        due = self._reads + 2
        until(lambda: self.wrong or self._reads >= due, "another read of all rows")
        assert not self.wrong, self.wrong

    @property
    def _reads(self) -> int:
        return self.seen.total()

    def _read_on(self) -> None:
        with self.endpoint.client() as client:
            dataset = GoldDataset(client, self.keys.dataset, namespace=self.keys.namespace)
            for scans in cycle((True, False)):
                if self._is_over.wait(_PAUSE_S):
                    return
                try:
                    rows = list(dataset.scan()) if scans else self._found(dataset)
                    self._note({row["id"]: row["n"] for row in rows})
                except UnreachableError:
                    self.unanswered += 1
                except NotPublishedError as error:
                    self._note_missing(dataset, error)
                except Exception as error:  # noqa: BLE001 - the test fails by it, not a thread
                    self.wrong.append(repr(error))

    def _found(self, dataset: GoldDataset) -> list[dict[str, Any]]:
        names = [*self.shape.rows(0)]
        return [row for row in dataset.get_many(names) if row is not None]

    def _note(self, rows: dict[str, int]) -> None:
        version = rows.get("k0", 0)
        expected = self.shape.rows(version)
        if missing := expected.keys() - rows.keys():
            self.wrong.append(f"version {version} without {len(missing)} of its rows")
        elif rows != expected:
            self.wrong.append(f"a mix of versions {sorted(set(rows.values()))}")
        elif version < self._newest:
            self.wrong.append(f"version {version} after {self._newest}")
        self._newest = max(self._newest, version)
        self.seen[version] += 1

    def _note_missing(self, dataset: GoldDataset, error: NotPublishedError) -> None:
        """A scan that takes longer than a version is kept ends so; what is live is always there."""
        try:
            if error.version in (None, dataset.manifest().version):
                self.wrong.append(str(error))
        except UnreachableError:
            self.unanswered += 1


def assert_settled(
    client: redis.Redis,
    reader: Reader,
    *,
    live: int,
    error: BaseException | None = None,
    says: str = "",
) -> None:
    """What holds after every fault.

    Readers saw whole versions only, and see the right one now; what was staged is removed, or will
    be, by its TTL or by the next sweep after its lease; and the error says what happened.

    Args:
        reader: that read from before the fault on.
        live: number of the version that is to be seen.
        error: that the publish raised, if it failed, and `says` what its text must match.
    """
    keys, shape = reader.keys, reader.shape
    reader.reads_on()
    dataset = GoldDataset(client, keys.dataset, namespace=keys.namespace)
    assert dataset.verify().rows == shape.count
    assert {row["id"]: row["n"] for row in dataset.scan()} == shape.rows(live)
    assert_nothing_left(client, keys)
    reader.reads_on()
    assert max(reader.seen) == live
    if error is not None:
        assert re.search(says, str(error)), error


def assert_nothing_left(client: redis.Redis, keys: GoldKeys) -> None:
    """All that is there belongs to a version that is kept, expires, or awaits the next sweep."""
    staged = [version.decode() for version in client.zrange(keys.staging, 0, -1)]
    lost = {key for key in _strays(client, keys) if not any(version in key for version in staged)}
    assert not lost, f"nobody will ever remove {sorted(lost)}"
    if staged:
        client.zadd(keys.staging, dict.fromkeys(staged, 0), xx=True)
        assert sorted(sweep(client, keys)) == sorted(staged)
    assert not (left := _strays(client, keys)), f"a sweep has left {sorted(left)}"


def _strays(client: redis.Redis, keys: GoldKeys) -> set[str]:
    """Keys of a dataset that do not expire, and that no version has which is kept."""
    places = (keys.root, keys.root.replace("{", "").replace("}", ""))
    found = [key for place in places for key in client.scan_iter(f"{place}:*", count=10_000)]
    asked = client.pipeline(transaction=False)
    for key in found:
        asked.pttl(key)
    there = {key.decode() for key, ttl in zip(found, asked.execute(), strict=True) if ttl == -1}
    of_dataset = {keys.head, keys.fence, keys.staging, keys.versions, keys.events, keys.watchers}
    kept = [version.decode() for version in client.zrange(keys.versions, 0, -1)]
    return there.difference(of_dataset, *(_keys_of(client, keys, version) for version in kept))


def _keys_of(client: redis.Redis, keys: GoldKeys, version: str) -> Iterable[str]:
    """All keys that a version has, or may have, of its own or of those it builds on."""
    yield from (keys.manifest(version), keys.attempts(version))
    attempts = {
        name.decode(): count.decode()
        for name, count in client.hgetall(keys.attempts(version)).items()
        if name != b"rows"
    }
    for attempt, count in attempts.items():
        if count.startswith("b"):
            yield from _buckets_of(client, keys, version, attempt, int(count[1:]))
            continue
        for number in range(int(count)):
            yield (page := keys.page(version, attempt, number))
            for name in decode_page(client.get(page)):
                yield f"{keys.row_prefix(version)}{name.decode()}"


def _buckets_of(
    client: redis.Redis, keys: GoldKeys, version: str, attempt: str, count: int
) -> Iterable[str]:
    share, _, task = attempt.partition(".")
    map_key = keys.bucket_map(version, attempt)
    yield from (map_key, keys.sums(version, attempt))
    data = client.get(map_key)
    single = BucketMap.single(f"{version}.{task}", count)
    for number, source in (single if data is None else BucketMap.decode(data)).sources():
        yield keys.bucket(source, int(share), number)
