"""The settings that docker-compose.yml gives Airflow are such that this Airflow can use."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from airflow.configuration import conf, run_command
from sqlalchemy.engine import make_url

COMPOSE = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text("utf-8"))
ENVIRONMENT = COMPOSE["services"]["airflow-scheduler"]["environment"]
COMMANDS = {
    name.removesuffix("_CMD"): text for name, text in ENVIRONMENT.items() if name.endswith("_CMD")
}


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
