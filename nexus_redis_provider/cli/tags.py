"""The commands on tags of cached entries."""

from __future__ import annotations

from argparse import Namespace
from typing import TYPE_CHECKING

import redis

from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.tags import invalidate

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts


def invalidate_tags(client: redis.Redis, args: Namespace) -> Answer:
    """Make all entries stale that carry one of the tags."""
    generations = invalidate(client, args.tags, namespace=args.namespace)

    def view() -> Parts:
        from nexus_redis_provider.cli.rendering import printable

        for tag in generations:
            yield f"{printable(tag)} invalidated at {address_of(client)}."

    documents = [{"tag": tag, "generation": number} for tag, number in generations.items()]
    return Answer(documents, view)
