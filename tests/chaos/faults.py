"""A fault of a deployment, under a load of callers of all kinds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nexus_redis_provider.core.endpoint import Endpoint
from tests.chaos.callers import Locker, WaitingWriter, Writer
from tests.chaos.loads import Load, Outcome


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that goes wrong.

    Attributes:
        name: in a few words; `{}` is for the seconds.
        harm: does it, given the deployment and the seconds; returns when it is over, which need not
            mean that all works again.
        deployment: makes what it is done to.
        seconds: that it lasts.
        beside: whether there are callers beside the primary, too, who have that one's own address,
            and so stay with it whatever Sentinels say.
    """

    name: str
    harm: Callable[[Any, float], None]
    deployment: Callable[[], Any]
    seconds: float = 0.0
    beside: bool = False

    def outcomes(self, directory: Path, **timeouts: float) -> Iterator[Outcome]:
        """Let it happen; one outcome for all callers, and one for those beside the primary.

        Args:
            directory: an empty one.
            timeouts: of callers, as of `Endpoint`.
        """
        with self.deployment() as deployment, ExitStack() as stack:
            endpoint = replace(deployment.endpoint, **timeouts)
            beside = _beside(deployment, endpoint, directory) if self.beside else None
            if beside:
                stack.enter_context(beside)
            with Load(endpoint, directory) as load:
                self.harm(deployment, self.seconds)
                load.works_again()
            yield load.outcome(self.name.format(f"{self.seconds:g} s"))
            if beside:
                beside.stop()
                yield beside.outcome("- callers beside the primary", reached=endpoint)


def _beside(deployment: Any, endpoint: Endpoint, directory: Path) -> Load:
    own = endpoint.at(deployment.primary.endpoint.nodes[0])
    return Load(own, directory, name="beside", kinds=(Writer, WaitingWriter, Locker))
