"""Airflow finds the provider, its connection type with the form, and its configuration."""

from __future__ import annotations

import importlib
import json
from importlib.resources import files
from typing import Any

import jsonschema
import pytest
from airflow.configuration import conf
from airflow.providers_manager import ProvidersManager
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

from nexus_redis_provider import __version__
from nexus_redis_provider.get_provider_info import get_provider_info
from nexus_redis_provider.hooks.redis import NexusRedisHook, endpoint_of

INFO = get_provider_info()
FORM = INFO["connection-types"][0]


def schema(name: str) -> Any:
    return json.loads(files("airflow").joinpath(name).read_text())


def test_it_is_as_airflow_wants_it() -> None:
    jsonschema.validate(INFO, schema("provider_info.schema.json"))
    # The stricter schema of provider.yaml asks for a release's states and dates too.
    stricter = schema("provider.yaml.schema.json")
    del stricter["required"]
    jsonschema.validate(INFO, stricter)


@pytest.mark.parametrize("section", ["hooks", "operators", "sensors", "triggers"])
def test_every_module_is_there(section: str) -> None:
    integrations = {integration["integration-name"] for integration in INFO["integrations"]}
    for part in INFO[section]:
        assert part["integration-name"] in integrations
        for module in part["python-modules"]:
            importlib.import_module(module)


def test_airflow_discovers_the_hook() -> None:
    assert ProvidersManager().providers["nexus-redis-provider"].version == __version__
    found = ProvidersManagerTaskRuntime().hooks["nexus_redis"]
    assert found is not None
    assert found.package_name == INFO["package-name"]
    assert found.hook_name == "Nexus Redis" == NexusRedisHook.hook_name
    assert found.connection_id_attribute_name == "redis_conn_id"
    assert found.connection_testable
    official = ProvidersManagerTaskRuntime().hooks["redis"]
    assert official is not None
    assert official.package_name == "apache-airflow-providers-redis"


def test_the_form_is_ours_and_not_the_official_hooks() -> None:
    manager = ProvidersManager()
    widgets = manager.connection_form_widgets
    prefix = "extra__nexus_redis__"
    names = {name.removeprefix(prefix) for name in widgets if name.startswith(prefix)}
    assert names == set(FORM["conn-fields"])
    assert "cluster" not in names
    assert manager.field_behaviours["nexus_redis"]["relabeling"] == {"login": "ACL user"}


def test_the_hook_understands_every_field_of_the_form() -> None:
    from airflow.sdk import Connection

    defaults = {name: field["schema"].get("default") for name, field in FORM["conn-fields"].items()}
    filled = Connection(
        conn_id="c", conn_type="nexus_redis", host="localhost", extra=json.dumps(defaults)
    )
    plain = Connection(conn_id="c", conn_type="nexus_redis", host="localhost")
    assert endpoint_of(filled) == endpoint_of(plain), "the form's defaults are the hook's"


def test_the_deployment_has_a_name_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    assert conf.get("nexus_redis", "deployment_id") == "airflow"
    monkeypatch.setenv("AIRFLOW__NEXUS_REDIS__DEPLOYMENT_ID", "staging")
    assert conf.get("nexus_redis", "deployment_id") == "staging"
