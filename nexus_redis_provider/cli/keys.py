"""The commands on the keys of a server."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from itertools import islice
from typing import TYPE_CHECKING

import redis

from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.cli.server_documents import (
    big_key_document,
    deletion_document,
    key_document,
    text_of,
    weight_document,
)
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keyspace.walks import delete, scan
from nexus_redis_provider.core.keyspace.weights import big_keys, weigh

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts


def scan_keys(client: redis.Redis, args: Namespace) -> Answer:
    """The keys like a pattern, in no order."""
    if args.limit is not None and args.limit < 1:
        raise ConfigurationError(f"--limit must be at least 1, not {args.limit}.")
    keys = list(islice(scan(client, args.pattern, kind=args.type), args.limit))

    def view() -> Parts:
        from nexus_redis_provider.cli.rendering import printable

        return (printable(text_of(key)) for key in keys)

    return Answer([key_document(key) for key in keys], view if keys else _none(client, args))


def delete_keys(client: redis.Redis, args: Namespace) -> Answer:
    """Remove the keys like a pattern, or count them.

    Raises:
        ConfigurationError: neither was asked for.
    """
    if args.dry_run == args.force:
        raise ConfigurationError(
            "Nothing was removed. Give --dry-run to count the keys, then --force to remove them."
        )
    deletion = delete(client, args.pattern, kind=args.type, dry_run=args.dry_run)

    def view() -> Parts:
        if args.dry_run:
            yield f"{deletion.found:,} keys would be removed at {address_of(client)}."
        else:
            yield f"{deletion.deleted:,} keys removed at {address_of(client)}."

    return Answer(deletion_document(args.pattern, deletion, is_dry=args.dry_run), view)


def list_big_keys(client: redis.Redis, args: Namespace) -> Answer:
    """The keys that take most memory."""
    found = big_keys(client, args.pattern, top=args.top, samples=args.samples)

    def view() -> Parts:
        from nexus_redis_provider.cli.server_tables import big_keys_table

        return [big_keys_table(found)]

    documents = [big_key_document(one) for one in found]
    return Answer(documents, view if found else _none(client, args))


def weigh_keys(client: redis.Redis, args: Namespace) -> Answer:
    """What keys take together."""
    weight = weigh(client, args.pattern, samples=args.samples)

    def view() -> Parts:
        yield (
            f"{weight.keys:,} keys take {weight.bytes:,} bytes: {weight.mean:,.0f} each, the "
            f"largest {weight.largest:,}."
        )

    return Answer(
        weight_document(args.pattern, weight), view if weight.keys else _none(client, args)
    )


def _none(client: redis.Redis, args: Namespace) -> Callable[[], Parts]:
    def view() -> Parts:
        from nexus_redis_provider.cli.rendering import printable

        yield f"No keys like {printable(text_of(args.pattern))} at {address_of(client)}."

    return view
