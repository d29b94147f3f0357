"""The commands on Gold datasets."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import redis

from nexus_redis_provider.cli.gold_documents import (
    dataset_document,
    history_document,
    key_of,
    row_document,
    version_document,
)
from nexus_redis_provider.cli.running import Answer
from nexus_redis_provider.core.endpoint import address_of
from nexus_redis_provider.core.errors import (
    AccessDeniedError,
    GoldError,
    NexusRedisError,
    ServerError,
    UnreachableError,
)
from nexus_redis_provider.core.gold.history import History, datasets, history, rollback_from
from nexus_redis_provider.core.gold.readers import GoldDataset
from nexus_redis_provider.core.gold.sweeping import sweep
from nexus_redis_provider.core.keys import GoldKeys
from nexus_redis_provider.core.scripts import run, run_all

if TYPE_CHECKING:
    from nexus_redis_provider.cli.running import Parts

_ASKED = 100


def list_datasets(client: redis.Redis, args: Namespace) -> Answer:
    """Every dataset for which a publish was ever begun, by name."""
    found, complaints = list[History](), list[str]()
    for name, seen in _histories(client, args.namespace):
        if isinstance(seen, History):
            found.append(seen)
        else:
            complaints.append(f"Gold dataset {name!r} cannot be read: {seen}")

    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import datasets_table

        return [datasets_table(found) if found else f"No Gold datasets {_where(client, args)}."]

    return Answer([dataset_document(seen) for seen in found], view, tuple(complaints))


def show_dataset(client: redis.Redis, args: Namespace) -> Answer:
    """All that is known of one dataset.

    Raises:
        GoldError: the server knows no such dataset.
    """
    seen = seen_dataset(client, args)

    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import history_view

        return history_view(seen)

    return Answer(history_document(seen), view)


def rollback_dataset(client: redis.Redis, args: Namespace) -> Answer:
    """Move readers back to the version before the live one, or to the one that `--to` names.

    Raises:
        GoldError: the server knows no such dataset, or it cannot be rolled back so.
    """
    seen = seen_dataset(client, args)
    manifest = rollback_from(client, seen, args.to)
    to = next(one for one in seen.versions if one.version == manifest.version)
    live = seen.live_version
    document = {
        "dataset": seen.dataset,
        "from": version_document(live, seen.now_ms) if live else None,
        "to": version_document(to, seen.now_ms),
    }

    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import rollback_view

        return rollback_view(seen, manifest)

    return Answer(document, view)


def sweep_datasets(client: redis.Redis, args: Namespace) -> Answer:
    """Remove what no reader can see: retired, aborted and given up versions.

    Raises:
        GoldError: the server knows no such dataset.
    """
    if args.dataset is not None:
        seen_dataset(client, args)
        names = [args.dataset]
    else:
        names = sorted(datasets(client, args.namespace))
    removed, complaints = dict[str, list[str]](), list[str]()
    for name in names:
        try:
            if versions := sweep(client, GoldKeys(name, args.namespace)):
                removed[name] = versions
        except (AccessDeniedError, UnreachableError):
            raise
        except NexusRedisError as error:
            complaints.append(f"Gold dataset {name!r} cannot be swept: {error}")
    document = [{"dataset": name, "removed": versions} for name, versions in removed.items()]

    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import sweep_view

        return sweep_view(removed) if removed else [f"Nothing to sweep {_where(client, args)}."]

    return Answer(document, view, tuple(complaints))


def get_row(client: redis.Redis, args: Namespace) -> Answer:
    """One row of what readers see.

    Raises:
        GoldError: nothing is published, or it has no such row.
        ConfigurationError: not the values of a key.
    """
    rows = GoldDataset(client, args.dataset, namespace=args.namespace)
    manifest = rows.manifest()
    row = rows.get(key_of(manifest, args.key))
    if row is None:
        raise GoldError(
            f"Gold dataset {args.dataset!r}, version {manifest.version!r}, has no row with the key "
            f"{', '.join(map(repr, args.key))}.",
            args.dataset,
        )

    def view() -> Parts:
        from nexus_redis_provider.cli.gold_tables import row_table

        return [row_table(row)]

    return Answer(row_document(row), view)


def verify_dataset(client: redis.Redis, args: Namespace) -> Answer:
    """Read every row that readers see, and compare number and checksum with the manifest.

    Rows that are missing count as expired, once some may be.

    Raises:
        GoldError: nothing is published, or rows are missing or changed.
        ConfigurationError: the dataset is upserted in place.
    """
    seen = GoldDataset(client, args.dataset, namespace=args.namespace).verification()
    manifest, expired = seen.manifest, seen.expired
    document = {
        "dataset": manifest.dataset,
        "version": manifest.version,
        "rows": manifest.rows,
        "expired": expired,
        "checksum": manifest.checksum,
    }

    def view() -> Parts:
        rows = f"all {manifest.rows:,} rows are as they were published"
        checksum = f"with checksum {manifest.checksum}"
        if expired:
            rows = f"{expired:,} of {manifest.rows:,} rows have expired"
            checksum = "so that no checksum can tell whether the others are as they were published"
        yield f"Gold dataset {manifest.dataset}, version {manifest.version}: {rows}, {checksum}."

    return Answer(document, view)


def seen_dataset(client: redis.Redis, args: Namespace) -> History:
    """All that is known of the dataset that was named.

    Raises:
        GoldError: the server knows no such dataset.
    """
    seen = run(client, history(args.dataset, namespace=args.namespace))
    if not (seen.exists or seen.versions or seen.staged):
        raise GoldError(
            f"There is no Gold dataset {args.dataset!r} {_where(client, args)}. See `gold list`.",
            args.dataset,
        )
    return seen


def _histories(client: redis.Redis, namespace: str) -> Iterator[tuple[str, History | ServerError]]:
    left = iter(sorted(datasets(client, namespace)))
    while names := list(islice(left, _ASKED)):
        asked = run_all(client, [history(name, namespace=namespace) for name in names])
        for name, seen in zip(names, asked, strict=True):
            yield name, _again(client, name, namespace) if isinstance(seen, ServerError) else seen


def _again(client: redis.Redis, name: str, namespace: str) -> History | ServerError:
    # By itself, a refused script says whether it is the dataset, or we who may not ask.
    try:
        return run(client, history(name, namespace=namespace))
    except (AccessDeniedError, UnreachableError):
        raise
    except ServerError as error:
        return error


def _where(client: redis.Redis, args: Namespace) -> str:
    return f"at {address_of(client)} in namespace {args.namespace!r}"
