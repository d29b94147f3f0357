"""Key and columns of a dataset, checked before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from nexus_redis_provider.core.errors import ConfigurationError, SchemaError
from nexus_redis_provider.core.gold.schemas import KEY_TYPES, Column
from nexus_redis_provider.core.gold.templates import KeyTemplate

if TYPE_CHECKING:
    import pyarrow as pa

TTL_TYPES = ("timestamp", "byte", "short", "integer", "long")
"""Of a column that says when rows expire."""


def key_template(key: str | Sequence[str], dataset: str) -> KeyTemplate:
    """The template of a `key` argument: one with braces as it is, columns joined by `|`.

    Raises:
        ConfigurationError: no column, or not a valid template.
    """
    if isinstance(key, str) and "{" in key:
        return KeyTemplate.parse(key)
    columns = [key] if isinstance(key, str) else list(key) if isinstance(key, Iterable) else []
    if not columns or not all(isinstance(column, str) and column for column in columns):
        raise ConfigurationError(f"Gold dataset {dataset!r}: key names no column: {key!r}.")
    return KeyTemplate.of_columns(columns)


def check_names(names: Sequence[str], key: KeyTemplate, dataset: str) -> None:
    """See that each column stands there once, and those of the key are among them.

    Raises:
        SchemaError: names the column.
    """
    for name in names:
        if names.count(name) > 1:
            raise refused_column(dataset, name, "stands there more than once")
    for name in key.columns:
        if name not in names:
            what = f"of the key is not there; the columns are {', '.join(names) or 'none'}"
            raise refused_column(dataset, name, what)


def check_key_types(columns: Sequence[Column], key: KeyTemplate, dataset: str) -> None:
    """See that the columns of the key are of types that a key can be.

    Raises:
        SchemaError: names the column.
    """
    for column in columns:
        kind = column.type if isinstance(column.type, str) else column.type["type"]
        if column.name in key.columns and kind not in KEY_TYPES:
            what = f"has type {kind}, which a key cannot be; cast it to a string"
            raise refused_column(dataset, column.name, what)


def check_ttl_column(columns: Sequence[Column], ttl_column: str, dataset: str) -> None:
    """See that a column can say when rows expire.

    Raises:
        SchemaError: names the column.
    """
    types = {column.name: column.type for column in columns}
    if ttl_column not in types:
        what = f"of ttl_column is not there; the columns are {', '.join(types) or 'none'}"
        raise refused_column(dataset, ttl_column, what)
    if (type_ := types[ttl_column]) not in TTL_TYPES:
        kind = type_ if isinstance(type_, str) else type_["type"]
        what = (
            f"has type {kind}, which says not when a row expires; cast it to timestamp, the moment "
            "when it does, or to a whole number of seconds from the publish"
        )
        raise refused_column(dataset, ttl_column, what)


def check_text(batch: pa.RecordBatch, columns: Sequence[Column], dataset: str) -> None:
    """See that all text is UTF-8, or whoever reads a row together with others would read none.

    Raises:
        SchemaError: names the column.
    """
    import pyarrow as pa

    for array, column in zip(batch.columns, columns, strict=True):
        try:
            array.validate(full=True)
        except pa.ArrowInvalid as error:
            raise refused_column(dataset, column.name, f"has no valid values: {error}") from None


def refused_column(dataset: str, column: str, what: str) -> SchemaError:
    """The error that names a column and what is wrong with it."""
    return SchemaError(f"Gold dataset {dataset!r}: column {column!r} {what}.", dataset, column)
