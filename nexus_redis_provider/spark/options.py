"""What `.option(...)` of the data source says, checked."""

from __future__ import annotations

import json
import pickle
from collections.abc import Collection, Mapping
from typing import Any

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.core.keys import DEFAULT_NAMESPACE, GoldKeys

COMMON = frozenset({"dataset", "url", "namespace"})


class Options:
    """Options by name, in lower case, as Spark hands them over."""

    def __init__(self, given: Mapping[str, str], known: Collection[str]) -> None:
        """Take options of which each must be known.

        Raises:
            ConfigurationError: names the unknown ones.
        """
        unknown = sorted(set(given) - COMMON - set(known))
        if unknown:
            raise ConfigurationError(f"Unknown option(s) of nexus_redis: {', '.join(unknown)}.")
        self._given = given

    @property
    def keys(self) -> GoldKeys:
        """The keys of the dataset."""
        return GoldKeys(self.required("dataset"), self.namespace)

    @property
    def namespace(self) -> str:
        """First part of the keys."""
        return self.text("namespace", DEFAULT_NAMESPACE)

    @property
    def endpoint(self) -> Endpoint:
        """Where the server is; it may travel to executors.

        Raises:
            ConfigurationError: a literal password, or no URL.
        """
        endpoint = Endpoint.of(self._given.get("url"))
        pickle.dumps(endpoint)  # A literal password is refused before anything was sent.
        return endpoint

    def text(self, option: str, default: str) -> str:
        return self._given.get(option, default)

    def required(self, option: str) -> str:
        value = self._given.get(option)
        if not value:
            raise ConfigurationError(
                f'Option {option!r} of nexus_redis is missing: .option("{option}", ...).'
            )
        return value

    def number(self, option: str, kind: type[int | float], default: Any = None) -> Any:
        if option not in self._given:
            return default
        try:
            return kind(self._given[option])
        except ValueError:
            what = "whole number" if kind is int else "number"
            raise ConfigurationError(
                f"Option {option!r} of nexus_redis must be a {what}, not {self._given[option]!r}."
            ) from None

    def facts(self, option: str) -> dict[str, Any]:
        text = self.text(option, "{}")
        try:
            facts = json.loads(text)
        except ValueError:
            facts = None
        if not isinstance(facts, dict):
            raise ConfigurationError(
                f"Option {option!r} of nexus_redis must be a JSON object, not {text!r}."
            )
        return facts
