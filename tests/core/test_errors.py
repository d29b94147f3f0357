"""Errors cross process borders whole: from executors to the driver, from workers to parents."""

from __future__ import annotations

import inspect
import pickle
from collections.abc import Iterator

import pytest

from nexus_redis_provider.core import errors
from nexus_redis_provider.core.errors import NexusRedisError

VALUES = {
    "columns": ("shop", "day"),
    "rows": 3,
    "failed": 7,
    "fence": 41,
    "recorded": 42,
    "expires_in": 1.5,
    "waited": 2.5,
    "timeout": 0.5,
    "version": "v9",
    "size": 2_000_000,
    "offset": 1234,
    "max_value_bytes": 1_000_000,
    "needed": 30,
    "used": 20,
    "limit": 40,
    "maxmemory": 100_000,
    "margin": 0.05,
}


def every_class(base: type[NexusRedisError] = NexusRedisError) -> Iterator[type[NexusRedisError]]:
    yield base
    for child in base.__subclasses__():
        yield from every_class(child)


def made(cls: type[NexusRedisError]) -> NexusRedisError:
    """One with a value of its own in every argument."""
    if cls.__init__ in (Exception.__init__, ValueError.__init__):
        return cls("what happened")
    given = inspect.signature(cls.__init__).bind_partial(None)
    for parameter in list(given.signature.parameters.values())[1:]:
        given.arguments[parameter.name] = VALUES.get(parameter.name, f"the {parameter.name}")
    return cls(*given.args[1:], **given.kwargs)


@pytest.mark.parametrize("cls", sorted(set(every_class()), key=lambda cls: cls.__name__))
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_keeps_message_and_attributes(cls, protocol):
    error = made(cls)
    error.__dict__["added later"] = "by code"
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is cls
    assert str(copy) == str(error)
    assert copy.args == error.args
    assert vars(copy) == vars(error)


def test_every_public_error_is_one_of_ours():
    found = {cls for _, cls in inspect.getmembers(errors, inspect.isclass)}
    assert {cls for cls in found if issubclass(cls, Exception)} <= set(every_class())


def test_attributes_say_what_the_arguments_said():
    error = errors.StaleFenceError("sales", 41, 42)
    assert (error.dataset, error.fence, error.recorded) == ("sales", 41, 42)
    assert "41" in str(error)
    assert "42" in str(error)
    assert "none was given" in str(errors.StaleFenceError("sales", None, 42))
