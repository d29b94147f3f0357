"""Whether a deployment can be used: what it says of itself, or what is wrong with it.

Each server is asked once, without retries and with timeouts of a few seconds.
"""

from __future__ import annotations

import statistics
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import redis
from redis import exceptions
from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from nexus_redis_provider.core.addresses import Node, Topology
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.faults import Fault
from nexus_redis_provider.core.monitoring.infos import Identity
from nexus_redis_provider.core.slots import node_told
from nexus_redis_provider.core.symptoms import fault_of

T = TypeVar("T")

_MOST_TIMEOUT = 3.0
_PINGS = 5


@dataclass(frozen=True, slots=True)
class Report:
    """What a server says of itself; None is what its ACL does not let this user see.

    Attributes:
        address: of the server that was asked.
        latency: of a PING, in seconds.
        server: `redis` or `valkey`.
        role: `master` or `slave`, as INFO calls them.
        user: by ACL WHOAMI.
        policy: maxmemory-policy.
        maxmemory: bytes; 0 is no limit.
        replicas: that are connected to it.
    """

    address: str
    latency: float
    server: str | None
    version: str | None
    mode: str | None
    role: str | None
    user: str | None
    policy: str | None
    maxmemory: int | None
    replicas: int | None

    @property
    def may_evict(self) -> bool:
        """Whether it may evict keys, and so is no server for locks."""
        return bool(self.maxmemory) and self.policy != "noeviction"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is the matter with a deployment.

    Attributes:
        where: the endpoint, or the server of it with the fault.
        fault: what is wrong, or None.
        message: all of it in words, for people; never a password.
        report: of the server that answered, if one did.
        notes: what is not well, but does not keep it from being used.
    """

    where: str
    fault: Fault | None
    message: str
    report: Report | None = None
    notes: tuple[str, ...] = ()


class _FaultError(Exception):
    def __init__(self, where: object, fault: Fault, detail: object = "") -> None:
        super().__init__(fault.told(where, detail))
        self.where = str(where)
        self.fault = fault


def diagnose(endpoint: Endpoint) -> Diagnosis:
    """Find out whether a deployment can be used as the endpoint says.

    Returns:
        A report, or the fault. Bounded: for each server that the endpoint names, and for the first
        that those name which does not answer, at most 12 s.

    Raises:
        ConfigurationError: the password is to come from where it is not.
    """
    quick = replace(
        endpoint,
        retries=0,
        connect_timeout=min(endpoint.connect_timeout, _MOST_TIMEOUT),
        read_timeout=min(endpoint.read_timeout, _MOST_TIMEOUT),
    )
    try:
        _check_files(quick)
        report, shape, notes = _EXAMINATIONS[endpoint.topology](quick)
    except _FaultError as error:
        return Diagnosis(error.where, error.fault, str(error))
    notes += _doubts(report)
    message = f"{shape}: {_in_words(report)}."
    return Diagnosis(str(endpoint), None, " ".join([message, *notes]), report, tuple(notes))


def _check_files(endpoint: Endpoint) -> None:
    try:
        if endpoint.tls:
            endpoint.tls.check_files()
    except ConfigurationError as error:
        raise _FaultError(endpoint.nodes[0], Fault.CERTIFICATE_FILES, error) from error


_Found = tuple[Report, str, list[str]]


def _standalone(endpoint: Endpoint) -> _Found:
    report = _interview(endpoint)
    if report.mode == "sentinel":
        raise _FaultError(endpoint.nodes[0], Fault.A_SENTINEL)
    if report.mode == "cluster":
        raise _FaultError(endpoint.nodes[0], Fault.A_CLUSTER)
    return report, "Standalone", []


def _sentinels(endpoint: Endpoint) -> _Found:
    answers: list[Mapping[str, Mapping[str, Any]]] = []
    faults = []
    for node in endpoint.nodes:
        try:
            answers.append(_masters(endpoint, node))
        except _FaultError as error:
            faults.append(error)
    if not answers:
        raise _most_telling(faults)
    name = endpoint.master or ""
    states = [masters[name] for masters in answers if name in masters]
    if not states:
        names = ", ".join(sorted({known for masters in answers for known in masters}))
        raise _FaultError(endpoint, Fault.UNKNOWN_MASTER, names and f"they watch {names}")
    up = [state for state in states if not (state["is_sdown"] or state["is_odown"])]
    if not up:
        raise _FaultError(endpoint, Fault.PRIMARY_DOWN)
    node = Node(up[0]["ip"], up[0]["port"])
    report = _interview(endpoint.at(node), f"{node}, as the Sentinels tell (replica-announce-ip)")
    shape = f"Primary of {name!r}, {len(answers)} of {len(endpoint.nodes)} Sentinels answer"
    return report, shape, [str(error) for error in faults]


def _masters(endpoint: Endpoint, node: Node) -> Mapping[str, Mapping[str, Any]]:
    sentinel = replace(
        endpoint.at(node),
        db=0,
        username=endpoint.sentinel_username,
        password=endpoint.sentinel_password,
        client_name=None,
    )
    return _ask(sentinel, _masters_by_name, f"Sentinel {node}")


def _masters_by_name(client: Any) -> Mapping[str, Mapping[str, Any]]:
    masters: Mapping[str, Mapping[str, Any]] = client.sentinel_masters()
    return masters


def _cluster(endpoint: Endpoint) -> _Found:
    faults = []
    for node in endpoint.nodes:
        try:
            report, primaries = _node_of_cluster(endpoint.at(node))
            break
        except _FaultError as error:
            faults.append(error)
    else:
        raise _most_telling(faults)
    notes = [str(error) for error in faults]
    # Clients go to where the nodes tell, which need not be an address that reaches them from here.
    for other in primaries:
        if other != node:
            where = f"{other}, as the Cluster tells (cluster-announce-ip)"
            doubts = _doubts(_interview(endpoint.at(other), where))
            notes += [f"{other}: {doubt}" for doubt in doubts]
    return report, f"Cluster of {len(primaries)} primaries", notes


def _node_of_cluster(single: Endpoint) -> tuple[Report, Sequence[Node]]:
    report = _interview(single)
    if report.mode == "sentinel":
        raise _FaultError(single.nodes[0], Fault.A_SENTINEL)
    if report.mode == "standalone":
        raise _FaultError(single.nodes[0], Fault.NO_CLUSTER)
    state, slots = _ask(single, _cluster_state)
    covered = sum(last + 1 - first for first, last, *_ in slots)
    if state != "ok" or covered != REDIS_CLUSTER_HASH_SLOTS:
        detail = f"cluster_state {state}, {covered} slots served"
        raise _FaultError(single.nodes[0], Fault.CLUSTER_DOWN, detail)
    return report, list(
        dict.fromkeys(node_told(first, single.nodes[0]) for _, _, first, *_ in slots)
    )


def _cluster_state(client: redis.Redis) -> tuple[str, Any]:
    with client.pipeline(transaction=False) as pipe:
        pipe.execute_command("CLUSTER", "SLOTS")
        pipe.execute_command("CLUSTER INFO")
        slots, info = pipe.execute(raise_on_error=False)
    if isinstance(slots, Exception):
        raise slots
    # Clients need no right to see the state.
    return "ok" if isinstance(info, Exception) else info["cluster_state"], slots


_EXAMINATIONS: dict[Topology, Callable[[Endpoint], _Found]] = {
    Topology.STANDALONE: _standalone,
    Topology.SENTINEL: _sentinels,
    Topology.CLUSTER: _cluster,
}
_AWAY = (Fault.UNKNOWN_HOST, Fault.REFUSED, Fault.NO_WAY, Fault.SILENT)


def _most_telling(faults: list[_FaultError]) -> _FaultError:
    # A node may be away, but what is said by one that is not holds for all.
    return next((one for one in faults if one.fault not in _AWAY), faults[0])


def _interview(single: Endpoint, where: str = "") -> Report:
    return _ask(single, lambda client: _introduction(single, client), where)


# What redis-py comes to when it reads a reply that is of RESP, but not the one that Redis gives.
_UNREADABLE = (AttributeError, LookupError, TypeError, ValueError)


def _ask(single: Endpoint, question: Callable[[redis.Redis], T], where: str = "") -> T:
    patience = single.connect_timeout + 3 * single.read_timeout
    with single.client() as client, _cut_off(client, patience) as is_cut_off:
        try:
            return question(client)
        except (exceptions.RedisError, *_UNREADABLE) as error:
            if is_cut_off():
                fault: tuple[Fault, object] = (Fault.SILENT, f"no whole answer in {patience:g} s")
            elif isinstance(error, exceptions.RedisError):
                fault = fault_of(error, single)
            elif _is_of_redis_py(error):
                fault = (Fault.NOT_REDIS, "its reply is none of Redis")
            else:
                raise  # A mistake of ours says nothing of the server.
            raise _FaultError(where or single.nodes[0], *fault) from error


def _is_of_redis_py(error: Exception) -> bool:
    """Whether it was raised there, and not by what called it."""
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    return str(frame.f_globals.get("__name__")).partition(".")[0] == redis.__name__


@contextmanager
def _cut_off(client: redis.Redis, seconds: float) -> Iterator[Callable[[], bool]]:
    """End its connections when the time is over: who says a byte now and then is never late."""
    is_over = threading.Event()

    def hang_up() -> None:
        is_over.set()
        client.connection_pool.disconnect()

    timer = threading.Timer(seconds, hang_up)
    timer.daemon = True
    timer.start()
    try:
        yield is_over.is_set
    finally:
        timer.cancel()


def _introduction(single: Endpoint, client: redis.Redis) -> Report:
    durations = []
    for _ in range(_PINGS):
        began_at = time.perf_counter()
        client.ping()
        durations.append(time.perf_counter() - began_at)
    with client.pipeline(transaction=False) as pipe:
        pipe.info()
        pipe.acl_whoami()
        pipe.execute_command("HELLO")
        info, user, hello = pipe.execute(raise_on_error=False)
    if isinstance(info, Exception):
        info = {}
    elif "redis_version" not in info:
        raise exceptions.InvalidResponse("its INFO is none of Redis")
    name, version, mode = Identity.of(info) if info else (None, None, _mode_in(hello))
    return Report(
        address=str(single.nodes[0]),
        latency=statistics.median(durations),
        server=name,
        version=version,
        mode=mode,
        role=info.get("role"),
        user=None if isinstance(user, Exception) else user,
        policy=info.get("maxmemory_policy"),
        maxmemory=info.get("maxmemory"),
        replicas=info.get("connected_slaves"),
    )


def _mode_in(hello: Any) -> str | None:
    """What a server is, as it tells every user."""
    if isinstance(hello, Exception):
        return None
    # RESP2 has no maps.
    told = hello if isinstance(hello, dict) else dict(zip(hello[::2], hello[1::2], strict=True))
    return str(told[b"mode"], "ascii")


def _in_words(report: Report) -> str:
    user = report.user or "unknown"
    where = f"{report.address} answers in {report.latency * 1000:.2f} ms"
    if report.server is None:
        return f"{where} to user {user}, who may not see INFO"
    return (
        f"{report.server} {report.version} at {where}; role {report.role}, "
        f"{report.replicas} replica(s), user {user}, eviction policy {report.policy}"
    )


def _doubts(report: Report) -> list[str]:
    doubts = []
    # In a Cluster, clients go on from there to the primaries.
    if report.role == "slave" and report.mode != "cluster":
        doubts.append("It is a replica: it takes no writes.")
    if report.may_evict:
        limit = f"{report.maxmemory:,} bytes"
        doubts.append(f"It may evict keys beyond {limit}: fine for a cache, refused for locks.")
    return doubts
