"""Taking a dataset from its readers, so that they ask its source again."""

from __future__ import annotations

import redis

from nexus_redis_provider.core.errors import GoldError, StaleFenceError
from nexus_redis_provider.core.gold.history import history
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys
from nexus_redis_provider.core.scripts import Call, run


def unpublish(
    client: redis.Redis,
    dataset: str,
    *,
    fence: int | None = None,
    namespace: str = DEFAULT_NAMESPACE,
) -> str | None:
    """Leave nothing to be read of a dataset, in one atomic step; returns what was live, or None.

    Its readers get `NotPublishedError`, and a sensor calls it cold, until the next publish. There
    is no way back to the versions that were kept: the next sweep removes them. A publish that is
    under way is not stopped, unless it is a delta to one of them.

    Args:
        client: of the server, without `decode_responses`.
        dataset: its name.
        fence: fencing token of the lock that guards the dataset. None is the decision of a person,
            and allowed also where publishers have tokens.
        namespace: first part of the keys.

    Raises:
        GoldError: its rows are upserted in place, or another version became live meanwhile.
            Nothing was changed.
        StaleFenceError: a newer fencing token has published. Nothing was changed.

    Cost: two round trips.
    """
    seen = run(client, history(dataset, namespace=namespace))
    live = seen.live_version
    if live and live.manifest and live.manifest.mode is Mode.UPSERT:
        raise GoldError(
            f"Gold dataset {dataset!r} is upserted in place: there are no versions to take from "
            "readers. Remove its keys by their pattern.",
            dataset,
        )
    if seen.live is None:
        return None
    outcome, *rest = run(client, retire(seen.keys, seen.live, fence=fence))
    if outcome == b"stale":
        raise StaleFenceError(dataset, fence, int(rest[0]))
    if outcome == b"moved":
        raise GoldError(
            f"Gold dataset {dataset!r} was left alone: version {rest[0].decode()!r} became live "
            f"meanwhile, after {seen.live!r}. Look whether it is to go, too.",
            dataset,
        )
    return seen.live


def retire(keys: GoldKeys, live: str, *, fence: int | None) -> Call[list[bytes]]:
    """Take all versions from readers, if what the caller has seen as live still is."""
    return Call(
        "unpublish",
        (keys.head, keys.fence, keys.staging, keys.versions),
        (live, "" if fence is None else fence),
        list,
    )
