"""The settings that docker-compose.yml gives Airflow are such that this Airflow can use."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from airflow.configuration import conf, run_command
from airflow.sdk import BaseHook, Connection
from sqlalchemy.engine import make_url

from nexus_redis_provider.core.endpoint import Topology
from nexus_redis_provider.hooks.redis import NexusRedisHook, endpoint_of
from nexus_redis_provider.hooks.roles import state_conn_id

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
ENVIRONMENT = COMPOSE["services"]["airflow-scheduler"]["environment"]
COMMANDS = {
    name.removesuffix("_CMD"): text for name, text in ENVIRONMENT.items() if name.endswith("_CMD")
}


def interpolated(text: str, **given: str) -> str:
    """As Compose does it with these variables in `.env`."""

    def value(match: re.Match[str]) -> str:
        name, sign, other = match.groups()
        if sign == "+":
            return other if given.get(name) else ""
        return given.get(name) or other

    return re.sub(r"\$\{(\w+):([-+])([^}]*)\}", value, text)


def names(variable: str) -> tuple[str, str]:
    """Section and option."""
    _, section, option = variable.lower().split("__")
    return section, option


@pytest.fixture
def printed(tmp_path: Path) -> dict[str, str]:
    """What the commands print, by variable; each secret is its own name, in a line."""

    def run(text: str) -> str:
        for secret in re.findall(r"/run/secrets/(\w+)", text):
            (tmp_path / secret).write_text(f"{secret}\n")
        return run_command(text.replace("/run/secrets", str(tmp_path)).replace("$$", "$"))

    return {variable: run(text) for variable, text in COMMANDS.items()}


def test_options_are_known() -> None:
    options = {name.removesuffix("_CMD") for name in ENVIRONMENT if name.startswith("AIRFLOW__")}
    assert options >= set(COMMANDS)
    for section, option in map(names, options):
        assert option in conf.configuration_description[section]["options"]
    # Of others Airflow runs no command.
    assert set(map(names, COMMANDS)) <= set(conf.sensitive_config_values)
    module, _, manager = ENVIRONMENT["AIRFLOW__CORE__AUTH_MANAGER"].rpartition(".")
    assert hasattr(import_module(module), manager)


def test_the_database_is_the_one_of_postgres(printed: dict[str, str]) -> None:
    """Airflow takes all that a command prints, with the end of its line."""
    url = make_url(printed["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"])
    server = COMPOSE["services"]["postgres"]["environment"]
    assert (url.host, url.password) == ("postgres", "postgres")
    assert (url.username, url.database) == (server["POSTGRES_USER"], server["POSTGRES_DB"])


def test_connections_of_the_page_are_understood() -> None:
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    uris = re.findall(r"^NEXUS_\w+_CONN=(\S+)$", page, re.MULTILINE)
    uris += [interpolated(text) for text in ENVIRONMENT.values() if "nexus-redis://" in text]
    endpoints = [endpoint_of(Connection.from_uri(uri, "a")) for uri in uris]
    assert {endpoint.topology for endpoint in endpoints} == set(Topology)
    assert {str(node.host) for one in endpoints for node in one.nodes} <= set(COMPOSE["services"])


@pytest.mark.parametrize("uri", ["", "nexus-redis://airflow@sentinel-1/0"])
def test_locks_are_elsewhere_only_where_that_is_said(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = {"NEXUS_STATE_CONN": uri} if uri else {}
    variables = ("AIRFLOW_CONN_NEXUS_REDIS_STATE", "AIRFLOW__NEXUS_REDIS__STATE_CONN_ID")
    for variable in variables:
        monkeypatch.setenv(variable, interpolated(ENVIRONMENT[variable], **given))
    if uri:
        (node,) = endpoint_of(BaseHook.get_connection(state_conn_id())).nodes
        assert node.host == "sentinel-1"
    else:
        assert state_conn_id() == NexusRedisHook.default_conn_name
