"""Rendered keys as Arrow arrays of their columns: `KeyTemplate.reader`, for a column at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from nexus_redis_provider.core.gold.arrays import array_of
from nexus_redis_provider.core.gold.schemas import ColumnType
from nexus_redis_provider.core.gold.templates import KeyTemplate

KeyReader = Callable[[Sequence[bytes]], dict[str, pa.Array]]
_IN_VALUES = frozenset("+-0123456789truefals")
"""What numbers, days and booleans are made of; in text, what separates columns is escaped."""


def key_reader(
    template: KeyTemplate, types: Mapping[str, ColumnType], wanted: Mapping[str, pa.DataType]
) -> KeyReader:
    """A function from rendered keys, at least one, to arrays of some of their columns, by name.

    Args:
        template: of the keys.
        types: at least those of its columns.
        wanted: of which arrays are made, with Spark's Arrow types for theirs.
    """
    chosen = [(name, place) for place, name in enumerate(template.columns) if name in wanted]
    by_values = template.reader([types[name] for name in template.columns])
    separators = set(template.literals[1:-1])
    is_plain = len(separators) < 2 and not any(text[0] in _IN_VALUES for text in separators)

    def one_by_one(keys: Sequence[bytes]) -> dict[str, pa.Array]:
        columns = by_values(list(map(bytes.decode, keys)))
        return {name: array_of(columns[place], types[name], wanted[name]) for name, place in chosen}

    def at_once(keys: Sequence[bytes]) -> dict[str, pa.Array]:
        try:
            parts = _parts(template, pa.array(keys, pa.binary()).cast(pa.string()))
            return {name: _array(parts[at], template, wanted[name]) for name, at in chosen}
        except pa.ArrowInvalid:  # A year of five digits, or no key of this template.
            return one_by_one(keys)

    if not chosen:
        return lambda _: {}
    return at_once if is_plain else one_by_one


def _parts(template: KeyTemplate, keys: pa.StringArray) -> list[pa.StringArray]:
    """The text of each column. Raises ArrowInvalid where it is no key of the template."""
    first, *separators, last = template.literals
    if first or last:
        keys = pc.utf8_slice_codeunits(keys, len(first), -len(last) or None)
    if not separators:
        return [keys]
    parts = pc.split_pattern(keys, separators[0])
    if pc.unique(pc.list_value_length(parts)).to_pylist() != [len(template.columns)]:
        raise pa.ArrowInvalid(f"no keys of {template.text!r}")
    return [pc.list_element(parts, place) for place in range(len(template.columns))]


def _array(texts: pa.StringArray, template: KeyTemplate, type_: pa.DataType) -> pa.Array:
    if template.escapes and pc.any(pc.match_substring(texts, "%")).as_py():
        return pa.array(list(map(unquote, texts.to_pylist())), type_)
    return texts.cast(type_)
