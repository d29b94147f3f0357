"""The servers that a load writes to, and whether they are the same to its end.

Rows are staged for minutes, and replicas follow a little behind. So a primary that restarted, or
that a replica took over from, may have lost rows that it had acknowledged; and so has one that
evicted keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from nexus_redis_provider.core.clusters import primaries_of
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import ConfigurationError, PublishError
from nexus_redis_provider.core.gold.manifests import Layout
from nexus_redis_provider.core.gold.specs import Spec

# By name, so that a layout to come is refused until somebody has seen to it.
_ON_A_CLUSTER = (Layout.JSON, Layout.PACKED)


@dataclass(frozen=True, slots=True)
class ServerState:
    """What tells of a primary whether it may have lost rows since.

    Attributes:
        address: for messages.
        run_id: of the process.
        evicted: keys, since it started.
    """

    address: str
    run_id: str
    evicted: int


def server_states(client: redis.Redis) -> tuple[ServerState, ...]:
    """Every primary that has keys, as it is now; one, but for a Cluster.

    Raises:
        UnreachableError, AccessDeniedError: one of them cannot be asked.
    """
    states = []
    for primary in primaries_of(client):
        with translated_errors(primary.client):
            info = primary.client.info("server", "stats")
        states.append(ServerState(primary.address, info["run_id"], info["evicted_keys"]))
    return tuple(states)


def refuse_losses(
    dataset: str, before: Iterable[ServerState], after: Iterable[ServerState]
) -> None:
    """Refuse a load during which a server may have lost rows.

    Nodes that joined a Cluster meanwhile, and were given slots with all their keys, are welcome.

    Raises:
        PublishError: names the server.
    """
    evicted = {state.run_id: state.evicted for state in before}
    left = {state.run_id for state in after}
    for state in before:
        if state.run_id not in left:
            raise PublishError(
                f"Gold dataset {dataset!r}: the server at {state.address} restarted or failed over "
                "during the load, so staged rows may be lost. Publish again.",
                dataset,
            )
    for state in after:
        # Of a node that has come, all count: nobody knows which of them were keys of this load.
        if count := state.evicted - evicted.get(state.run_id, 0):
            raise PublishError(
                f"Gold dataset {dataset!r}: the server at {state.address} evicted {count} key(s) "
                "during the load. Raise maxmemory, keep fewer versions, or use a server with "
                "maxmemory-policy noeviction.",
                dataset,
            )


def refuse_topology(endpoint: Endpoint, spec: Spec) -> None:
    """Refuse what a Cluster cannot do.

    Raises:
        ConfigurationError: says why, and what to do instead.
    """
    if not endpoint.is_cluster or spec.layout in _ON_A_CLUSTER:
        return
    others = " or ".join(f"layout={layout.value!r}" for layout in _ON_A_CLUSTER)
    raise ConfigurationError(
        f"Gold dataset {spec.dataset!r}: layout={spec.layout.value!r} is written in transactions, "
        f"which the nodes of {endpoint} have only each for its own slots. Publish with {others}, "
        "or to a single server, or one that Sentinels watch."
    )
