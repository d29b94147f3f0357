"""Gold datasets as Airflow assets.

A task that publishes has the asset as its outlet; a DAG is scheduled by it:

    GoldPublishOperator(task_id="publish", dataset="sales", ...)            # has it as outlet
    SparkSubmitOperator(..., outlets=[gold_asset("sales")])
    DAG("mail", schedule=gold_asset("sales"))

What is published by others (another Airflow, a job that nobody scheduled, a rollback) is an asset
of its own, which the triggerer watches in Redis, so that no publish counts twice:

    DAG("mail", schedule=watched_gold_asset("sales"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, unquote, urlencode

from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys

if TYPE_CHECKING:
    from urllib.parse import SplitResult

    from airflow.sdk import Asset

SCHEME = "nexus-redis"
_DEFAULT_CONNECTION = "nexus_redis_default"
_FOLDER = "/gold/"
_PARTS = frozenset({"namespace", "watched"})


def gold_asset(
    dataset: str,
    redis_conn_id: str = _DEFAULT_CONNECTION,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    **options: Any,
) -> Asset:
    """The asset of a dataset: `nexus-redis://<connection>/gold/<dataset>`, the same everywhere.

    Args:
        dataset: its name.
        redis_conn_id: connection of the server; its id, not its address, is part of the asset.
        namespace: first part of the dataset's keys.
        options: further ones of `Asset`, such as `name`, `group` and `extra`.

    Raises:
        ConfigurationError: no dataset can have this name.
    """
    from airflow.sdk import Asset

    return Asset(uri=_uri(dataset, redis_conn_id, namespace), **options)


def watched_gold_asset(
    dataset: str,
    redis_conn_id: str = _DEFAULT_CONNECTION,
    *,
    kinds: tuple[str, ...] = ("publish", "rollback"),
    watcher: str | None = None,
    namespace: str = DEFAULT_NAMESPACE,
    **options: Any,
) -> Asset:
    """The asset that has an event for every publish of a dataset, by whomever: Redis tells of it.

    Its events say in `extra["payload"]` which `version` it is; see `GoldPublishedTrigger`.

    Args:
        dataset: its name.
        redis_conn_id: connection of the server.
        kinds: of events: `publish`, `rollback`.
        watcher: see `GoldPublishedTrigger`.
        namespace: first part of the dataset's keys.
        options: further ones of `Asset`, such as `name`, `group` and `extra`.
    """
    from airflow.sdk import Asset, AssetWatcher

    from nexus_redis_provider.triggers.gold_published import GoldPublishedTrigger

    trigger = GoldPublishedTrigger(
        dataset=dataset,
        redis_conn_id=redis_conn_id,
        kinds=kinds,
        watcher=watcher,
        namespace=namespace,
    )
    uri = _uri(dataset, redis_conn_id, namespace, watched=",".join(trigger.kinds))
    return Asset(uri=uri, watchers=[AssetWatcher(name=uri, trigger=trigger)], **options)


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """The one way to write the URI of a dataset; Airflow asks for it.

    Raises:
        ValueError: it is not `nexus-redis://<connection>/gold/<dataset>`.
    """
    dataset = unquote(uri.path.removeprefix(_FOLDER))
    options = dict(parse_qsl(uri.query))
    if not uri.netloc or not uri.path.startswith(_FOLDER) or not set(options) <= _PARTS:
        raise ValueError(
            f"The URI of a Gold dataset is {SCHEME}://<connection>{_FOLDER}<dataset>, unlike "
            f"{uri.geturl()!r}."
        )
    GoldKeys(dataset, options.get("namespace", DEFAULT_NAMESPACE))
    return uri._replace(path=_path(dataset), query=_query(options))


def _uri(dataset: str, redis_conn_id: str, namespace: str, **options: str) -> str:
    GoldKeys(dataset, namespace)
    query = _query({"namespace": namespace, **options})
    return f"{SCHEME}://{redis_conn_id}{_path(dataset)}{'?' if query else ''}{query}"


def _path(dataset: str) -> str:
    # Airflow takes slashes from the end of a path, and a name may end with one.
    return _FOLDER + quote(dataset, safe=":")


def _query(options: dict[str, str]) -> str:
    given = sorted(options.items())
    return urlencode([each for each in given if each != ("namespace", DEFAULT_NAMESPACE)])
