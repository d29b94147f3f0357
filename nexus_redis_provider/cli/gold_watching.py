"""`gold watch`: how far the publishes are that are under way, until the last one is over."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import redis

from nexus_redis_provider.cli.gold import seen_dataset
from nexus_redis_provider.cli.running import Answer, Feed
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import ServerError
from nexus_redis_provider.core.gold.history import History, StagingArea, datasets, history
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.memory import Expectation
from nexus_redis_provider.core.gold.progress import Meter, Progress
from nexus_redis_provider.core.scripts import run_all

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts

_SECONDS = 1.0
_STAGING, _PUBLISHED, _GONE = "staging", "published", "gone"


@dataclass(frozen=True, slots=True)
class Load:
    """A publish at one moment.

    Attributes:
        state: `staging`, `published`, or `gone`, when it was aborted or given up.
    """

    dataset: str
    version: str
    state: str
    progress: Progress


def watch_datasets(client: redis.Redis, args: Namespace) -> Feed:
    """Tell once a second how far every publish is that is under way, until all of them are over.

    Raises:
        GoldError: the server knows no dataset of the name that was given.
    """
    if args.dataset is not None:
        names = [seen_dataset(client, args).dataset]
    else:
        # Only once: it looks at every key of the server.
        names = sorted(datasets(client, args.namespace))
    return Feed(_answers(client, names, args))


def _answers(client: redis.Redis, names: Sequence[str], args: Namespace) -> Iterator[Answer]:
    watcher = _Watcher(client, names, args.namespace)
    while True:
        loads = watcher.look()
        yield _answer(loads)
        if args.once or all(load.state != _STAGING for load in loads):
            return
        time.sleep(_SECONDS)


class _Watcher:
    """Remembers what was seen before: for the speed, and for what has become of it."""

    def __init__(self, client: redis.Redis, names: Sequence[str], namespace: str) -> None:
        self._client = client
        self._names = names
        self._namespace = namespace
        self._meters: dict[tuple[str, str], Meter] = {}
        self._last: dict[tuple[str, str], Progress] = {}

    def look(self) -> list[Load]:
        """What is under way, and what has ended since the last look."""
        asked = run_all(
            self._client, [history(name, namespace=self._namespace) for name in self._names]
        )
        loads: list[Load] = []
        for seen in asked:
            if isinstance(seen, ServerError):
                raise seen
            loads += self._loads(seen)
        return loads

    def _loads(self, seen: History) -> Iterator[Load]:
        staged = {area.version: area for area in seen.staged if not area.is_abandoned}
        for version, area in staged.items():
            progress = self._progress(seen, area)
            self._last[seen.dataset, version] = progress
            yield Load(seen.dataset, version, _STAGING, progress)
        for dataset, version in list(self._last):
            if dataset == seen.dataset and version not in staged:
                kept = any(one.version == version for one in seen.versions)
                last = self._last.pop((dataset, version))
                yield Load(dataset, version, _PUBLISHED if kept else _GONE, last)

    def _progress(self, seen: History, area: StagingArea) -> Progress:
        at = seen.dataset, area.version
        if at not in self._meters:
            self._meters[at] = Meter(self._expected(seen, area.version))
        return self._meters[at].note(area.rows, (seen.now_ms - area.created_ms) / 1000)

    def _expected(self, seen: History, version: str) -> Expectation | None:
        with translated_errors(self._client):
            told: Any = self._client.get(seen.keys.expected(version))
        if told is not None:
            return Expectation(int(told))
        manifest = seen.live_version.manifest if seen.live_version else None
        if manifest is None or manifest.mode is not Mode.SNAPSHOT or not manifest.rows:
            return None
        return Expectation(manifest.rows, is_estimate=True)


def _answer(loads: Sequence[Load]) -> Answer:
    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import loads_view

        return loads_view(loads)

    at = datetime.now(tz=UTC).isoformat(timespec="milliseconds")
    return Answer({"at": at, "loads": [_document(load) for load in loads]}, view)


def _document(load: Load) -> dict[str, Any]:
    progress = load.progress
    expected = progress.expected
    return {
        "dataset": load.dataset,
        "version": load.version,
        "state": load.state,
        "rows": progress.rows,
        "seconds": progress.seconds,
        "rows_per_second": round(progress.rows_per_second),
        "expected_rows": expected.rows if expected else None,
        "is_estimate": expected.is_estimate if expected else None,
        "share": progress.share,
        "eta": progress.eta,
    }
