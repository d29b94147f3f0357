"""Which server is the primary, as Sentinels say."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis import exceptions
from redis.sentinel import MasterNotFoundError

if TYPE_CHECKING:
    from nexus_redis_provider.core.endpoint import Endpoint, Node

_DENIED = (exceptions.AuthenticationError, exceptions.NoPermissionError)
# By name, as SENTINEL MASTERS gives them.
_Masters = Mapping[str, Mapping[str, Any]]


class _Watched:
    """Asks one Sentinel after the other; the one that knew the primary is the first next time.

    It leaves no connection open: a Sentinel has more to do than to serve idle clients.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._name = endpoint.master or ""
        self._nodes = endpoint.nodes

    def __str__(self) -> str:
        return str(self._endpoint)

    def left(self, error: Exception) -> None:
        """Nothing to note: the Sentinels are asked for every connection."""

    def _options(self, node: Node) -> dict[str, Any]:
        return {"host": node.host, "port": node.port, **self._endpoint.sentinel_options()}

    def _found(self, node: Node, masters: Any, doubts: dict[Node, Any]) -> Any:
        state = masters.get(self._name)
        if state is None or state["is_sdown"] or state["is_odown"] or not state["is_master"]:
            doubts[node] = masters
            return None
        self._nodes = (node, *(one for one in self._nodes if one != node))
        return state["ip"], state["port"]

    def _complaint(self, doubts: Mapping[Node, _Masters | Exception]) -> Exception:
        """What is wrong, by the most telling of what the Sentinels said."""
        answers = {node: said for node, said in doubts.items() if not isinstance(said, Exception)}
        for node, masters in answers.items():
            if state := masters.get(self._name):
                return MasterNotFoundError(
                    f"Sentinel {node} sees the primary {state['ip']}:{state['port']} down, and "
                    "no other one is elected yet"
                )
        denied = [(node, error) for node, error in doubts.items() if isinstance(error, _DENIED)]
        for node, error in denied:
            if isinstance(error, exceptions.NoPermissionError):
                return exceptions.NoPermissionError(
                    f"Sentinel {node} says: {error}. Give that right to its user there"
                )
            return exceptions.AuthenticationError(
                f"Sentinel {node} says: {error}. Give sentinel_username, and the password by "
                "sentinel_password_env or sentinel_password_file"
            )
        if answers:
            known = sorted({name for masters in answers.values() for name in masters})
            others = f"but {', '.join(map(repr, known))}" if known else "nor any other"
            return MasterNotFoundError(
                f"Sentinel {', '.join(map(str, answers))} knows no master {self._name!r}, {others}"
            )
        said = "; ".join(f"{node}: {error}" for node, error in doubts.items())
        return MasterNotFoundError(f"no Sentinel answers ({said})")


class Primary(_Watched):
    """The guide of connections to the primary."""

    def address(self) -> tuple[str, int]:
        """The primary's address.

        Raises:
            MasterNotFoundError, AuthenticationError: what is wrong.
        """
        doubts: dict[Node, Any] = {}
        for node in self._nodes:
            options = self._options(node)
            try:
                with redis.Redis(**options) as sentinel:
                    address = self._found(node, sentinel.sentinel_masters(), doubts)
                    if address:
                        return self._choice(sentinel) or (address[0], address[1])
            except exceptions.RedisError as error:
                doubts[node] = error
        raise self._complaint(doubts)

    def _choice(self, _: redis.Redis) -> tuple[str, int] | None:
        """Another server than the primary that a Sentinel knows, where one is wanted."""
        return None


class Replica(Primary):
    """The guide of connections to a replica, or to the primary while there is none."""

    def _choice(self, sentinel: redis.Redis) -> tuple[str, int] | None:
        return _one_of(sentinel.sentinel_slaves(self._name))


class AsyncPrimary(_Watched):
    """The asyncio twin of `Primary`."""

    async def address(self) -> tuple[str, int]:
        """As `Primary.address`."""
        doubts: dict[Node, Any] = {}
        for node in self._nodes:
            options = self._options(node)
            try:
                async with redis.asyncio.Redis(**options) as sentinel:
                    address = self._found(node, await sentinel.sentinel_masters(), doubts)
                    if address:
                        return await self._choice(sentinel) or (address[0], address[1])
            except exceptions.RedisError as error:
                doubts[node] = error
        raise self._complaint(doubts)

    async def _choice(self, _: redis.asyncio.Redis) -> tuple[str, int] | None:
        """As `Primary._choice`."""
        return None


class AsyncReplica(AsyncPrimary):
    """The asyncio twin of `Replica`."""

    async def _choice(self, sentinel: redis.asyncio.Redis) -> tuple[str, int] | None:
        return _one_of(await sentinel.sentinel_slaves(self._name))


def _one_of(replicas: Any) -> tuple[str, int] | None:
    """Any replica that is up and hears from its primary."""
    fit = [
        (state["ip"], state["port"])
        for state in replicas
        if state["master-link-status"] == "ok"
        and not (state["is_sdown"] or state["is_odown"] or state["is_disconnected"])
    ]
    return random.choice(fit) if fit else None
