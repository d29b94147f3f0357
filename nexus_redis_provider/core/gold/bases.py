"""What a publish of packed rows begins from: shares, buckets, and the version before a delta."""

from __future__ import annotations

from contextlib import suppress

import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.gold.buckets import ROWS
from nexus_redis_provider.core.gold.manifests import Layout, Manifest, Mode
from nexus_redis_provider.core.gold.packing import PACKING
from nexus_redis_provider.core.gold.readers import live_manifest
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.scripts import run

_LISTPACK = "hash-max-listpack-entries"
_LISTPACK_ENTRIES = 128
# A task holds a share in memory, some 200 bytes for each row.
_SHARE_ROWS = 400_000


def live_packed(client: redis.Redis, spec: Spec) -> Manifest | None:
    """The live version, if what is published is packed."""
    if spec.layout is not Layout.PACKED:
        return None
    return run(client, live_manifest(spec.dataset, namespace=spec.namespace))


def share_count(live: Manifest | None, spec: Spec, least: int) -> int:
    """In how many shares to deal the rows, so that each fits into the memory of a task."""
    rows = spec.limits.expected_rows or (live.rows if live else 0)
    return max(least, -(-rows // _SHARE_ROWS))


def base_of(live: Manifest | None, spec: Spec, now_ms: int) -> Manifest | None:
    """The live version, if a delta can build on it."""
    if spec.mode is not Mode.DELTA:
        return None
    if live is None or (live.layout, live.packing) != (Layout.PACKED, PACKING):
        return None
    if (live.columns, live.key) != (spec.columns, spec.key.text):
        return None
    # Buckets are to live as long as those of this version, which prolongs lives and ends none.
    if live.expires_ms is not None:
        lease_ms = to_ms(spec.staging_lease, "staging_lease")
        lasts = not live.loses_rows(now_ms + lease_ms)
        return live if spec.ttl is not None and lasts else None
    return live if spec.ttl is None else None


def bucket_rows(client: redis.Redis) -> int:
    """How many rows a bucket is to have, so that nearly none is too large for a listpack."""
    entries = _LISTPACK_ENTRIES
    # Managed servers let nobody ask.
    with suppress(redis.exceptions.RedisError):
        told = [one.client.config_get(_LISTPACK)[_LISTPACK] for one in primaries_of(client)]
        entries = min(int(value or entries) for value in told)
    return max(1, min(ROWS, entries // 3))
