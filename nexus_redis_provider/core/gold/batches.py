"""Micro-batches of a stream: each is applied once, however often it is tried.

A run of a batch claims it in the step that opens its staging area, and a later run takes the claim
over. The commit records the batch in the step that makes it visible. So a batch that is run again
after its commit writes nothing, and what an older run still writes is refused.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from nexus_redis_provider.core.clusters import plain_client
from nexus_redis_provider.core.durations import to_ms
from nexus_redis_provider.core.endpoint import Endpoint, translated_errors
from nexus_redis_provider.core.errors import StaleFenceError, SupersededError
from nexus_redis_provider.core.gold.manifests import Mode
from nexus_redis_provider.core.gold.publications import Publication
from nexus_redis_provider.core.gold.servers import (
    ServerState,
    refuse_topology,
    server_states,
)
from nexus_redis_provider.core.gold.specs import Spec
from nexus_redis_provider.core.scripts import Call, run


@dataclass(frozen=True, slots=True)
class Claim:
    """Who runs a micro-batch: what the dataset's head says while it is under way."""

    query: str
    number: int
    planned_us: int
    version: str
    created_ms: int

    @property
    def field(self) -> str:
        """Field of the head."""
        return f"claim:{self.query}"

    @property
    def text(self) -> str:
        """Value of the field."""
        return f"{self.number} {self.planned_us} {self.version} {self.created_ms}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the tasks of one run of a micro-batch have in common.

    Attributes:
        planned_us: by the server that has the head; the later run of a batch is the one to be
            believed.
        servers: those that have keys, as they were then.
    """

    planned_us: int
    servers: tuple[ServerState, ...]

    @classmethod
    def make(cls, endpoint: Endpoint, spec: Spec) -> Plan:
        """Plan a run now; changes nothing on the server.

        Raises:
            ConfigurationError: as `Publication.begin`.
        """
        refuse_topology(endpoint, spec)
        with endpoint.client() as client:
            servers = server_states(client)
            with translated_errors(client):
                seconds, micros = plain_client(client, spec.keys.head).time()
        return cls(seconds * 1_000_000 + micros, servers)


def begin_batch(
    endpoint: Endpoint, spec: Spec, plan: Plan, query: str, number: int
) -> Publication | None:
    """The publication of a micro-batch: the same for all tasks of a run; None if it was applied.

    Args:
        endpoint, spec: where and what.
        plan: of this run.
        query: the stream's id, which outlives its restarts.
        number: of the micro-batch, rising.

    Raises:
        StaleFenceError: as `Publication.begin`.
        SupersededError: a later run has this batch, or a later batch.
        UnreachableError, AccessDeniedError: nothing was written.
    """
    keys = spec.keys
    with endpoint.client() as client:
        outcome, *rest = run(
            client,
            Call(
                "begin_publish",
                (keys.head, keys.fence, keys.staging),
                (
                    "" if spec.fence is None else spec.fence,
                    to_ms(spec.staging_lease, "staging_lease"),
                    int(spec.mode is Mode.UPSERT),
                    *(query, number, plan.planned_us),
                ),
                list,
            ),
        )
    match outcome:
        case 0:
            raise StaleFenceError(spec.dataset, spec.fence, int(rest[0]))
        case 2:
            return None
        case 3:
            raise SupersededError(
                f"Gold dataset {spec.dataset!r}: micro-batch {number} of query {query} is being "
                "run by a later run of the query. Let only one run of a query go on.",
                spec.dataset,
            )
    version, created_ms = rest[0].decode(), int(rest[1])
    facts = {"streaming_query": query, "micro_batch": str(number)}
    return Publication(
        endpoint=endpoint,
        spec=replace(spec, lineage={**spec.lineage, **facts}),
        version=version,
        created_ms=created_ms,
        expires_ms=spec.expires_ms(created_ms),
        servers=plan.servers,
        claim=Claim(query, number, plan.planned_us, version, created_ms),
    )
