"""What travels to executors says where the password is; the password stays."""

from __future__ import annotations

import pickle

import pytest
from pyspark.sql.types import StructType

from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.errors import ConfigurationError
from nexus_redis_provider.spark import NexusRedisDataSource
from tests.core.gold_datasets import publish, spec, user
from tests.urls import url_of
from tests.with_spark.conftest import PASSWORD, PASSWORD_VARIABLE

pytestmark = pytest.mark.spark
SCHEMA = StructType.fromJson(
    {
        "type": "struct",
        "fields": [
            {"name": name, "type": type_, "nullable": True, "metadata": {}}
            for name, type_ in (("id", "string"), ("n", "long"))
        ],
    }
)


@pytest.fixture(params=["env", "env_url", "file"])
def options(request, client, endpoint, namespace, monkeypatch, tmp_path):  # noqa: PLR0917
    """Options of the data source with a reference, good for a user with a password."""
    name = f"user-{namespace}"
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    monkeypatch.setenv("NEXUS_REDIS_URL", url_of(endpoint, f"{name}:{PASSWORD}"))
    (tmp_path / "secret").write_text(PASSWORD)
    urls = {
        "env": {"url": url_of(endpoint, name, password_env=PASSWORD_VARIABLE)},
        "file": {"url": url_of(endpoint, name, password_file=str(tmp_path / "secret"))},
        "env_url": {},
    }
    publish(endpoint, {"a": 1}, spec(namespace))
    with user(client, endpoint, name, f">{PASSWORD}", "~*", "+@all"):
        yield {"dataset": "sales", "namespace": namespace, **urls[request.param]}


def test_no_pickle_holds_the_password(options):
    """What Spark pickles are the source itself, its reader and its writers."""
    writing, reading = (
        NexusRedisDataSource(options | {"key": "{id}"}),
        NexusRedisDataSource(options),
    )
    for traveller, endpoint_of in (
        (writing, lambda source: Endpoint.of(source.options.get("url"))),
        (writing.writer(SCHEMA, overwrite=True), lambda writer: writer._publication.endpoint),
        (writing.streamWriter(SCHEMA, overwrite=False), lambda writer: writer._endpoint),
        (reading.reader(SCHEMA), lambda reader: reader._endpoint),
    ):
        pickled = pickle.dumps(traveller)
        endpoint = endpoint_of(pickle.loads(pickled))
        assert PASSWORD.encode() not in pickled
        assert PASSWORD not in repr(traveller) + repr(endpoint)
        with endpoint.client() as client:
            assert client.ping()


def test_no_pickle_is_made_with_a_literal_password(endpoint, namespace):
    where = f"redis://:{PASSWORD}@{endpoint.nodes[0]}"
    options = {"dataset": "sales", "namespace": namespace, "url": where}
    for begin in (
        lambda: NexusRedisDataSource(options | {"key": "id"}).writer(SCHEMA, overwrite=True),
        lambda: NexusRedisDataSource(options | {"key": "id"}).streamWriter(SCHEMA, overwrite=True),
        lambda: NexusRedisDataSource(options).reader(SCHEMA),
        lambda: NexusRedisDataSource(options).schema(),
    ):
        with pytest.raises(ConfigurationError, match="literal Redis password") as caught:
            begin()
        assert PASSWORD not in str(caught.value)
