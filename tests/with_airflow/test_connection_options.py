"""Every option is reached from the form, a URI, JSON and the environment, and means the same."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
from airflow.sdk import Connection

from nexus_redis_provider.core.addresses import Node, Tls, Topology
from nexus_redis_provider.core.credentials import Secret, SecretSource
from nexus_redis_provider.core.endpoint import URL_VARIABLE, Endpoint
from nexus_redis_provider.core.options import OPTIONS
from nexus_redis_provider.get_provider_info import get_provider_info
from nexus_redis_provider.hooks.redis import NexusRedisHook

FORM = get_provider_info()["connection-types"][0]["conn-fields"]
ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "connections.md").read_text("utf-8")
WATCHED = Endpoint(nodes=(Node("h", 7000),), topology=Topology.SENTINEL, master="m")
SECURE = Endpoint(nodes=(Node("h", 7000),), tls=Tls())
PLAIN = Endpoint(nodes=(Node("h", 7000),))


@dataclass(frozen=True)
class Sample:
    """A value other than the default, as a text and as the form has it; and what it comes to."""

    value: Any
    expected: Endpoint
    base: Endpoint = PLAIN


def _secret(source: SecretSource) -> Secret:
    return Secret(source, "X")


SAMPLES = {
    "password_env": Sample("X", replace(PLAIN, password=_secret(SecretSource.ENV))),
    "password_file": Sample("X", replace(PLAIN, password=_secret(SecretSource.FILE))),
    "credential_provider": Sample("a.b.C", replace(PLAIN, credential_provider="a.b.C")),
    "master": Sample("other", replace(WATCHED, master="other"), WATCHED),
    "sentinel_username": Sample("u", replace(WATCHED, sentinel_username="u"), WATCHED),
    "sentinel_password_env": Sample(
        "X", replace(WATCHED, sentinel_password=_secret(SecretSource.ENV)), WATCHED
    ),
    "sentinel_password_file": Sample(
        "X", replace(WATCHED, sentinel_password=_secret(SecretSource.FILE)), WATCHED
    ),
    "ssl_ca_certs": Sample("/a b.pem", replace(SECURE, tls=Tls(ca_certs="/a b.pem")), SECURE),
    "ssl_certfile": Sample("/c.pem", replace(SECURE, tls=Tls(certfile="/c.pem")), SECURE),
    "ssl_keyfile": Sample(
        "/k.pem", replace(SECURE, tls=Tls(certfile="/c.pem", keyfile="/k.pem")), SECURE
    ),
    "ssl_cert_reqs": Sample("none", replace(SECURE, tls=Tls(cert_reqs="none")), SECURE),
    "ssl_check_hostname": Sample(False, replace(SECURE, tls=Tls(check_hostname=False)), SECURE),
    "connect_timeout": Sample(1.5, replace(PLAIN, connect_timeout=1.5)),
    "read_timeout": Sample(2.5, replace(PLAIN, read_timeout=2.5)),
    "retries": Sample(7, replace(PLAIN, retries=7)),
    "max_connections": Sample(8, replace(PLAIN, max_connections=8)),
    "pool_timeout": Sample(0.5, replace(PLAIN, pool_timeout=0.5)),
    "health_check_interval": Sample(9, replace(PLAIN, health_check_interval=9)),
    "read_from": Sample("replica", replace(WATCHED, read_from="replica"), WATCHED),
    "protocol": Sample(2, replace(PLAIN, protocol=2)),
    "client_name": Sample("me", replace(PLAIN, client_name="me")),
}


def options_of(name: str) -> dict[str, Any]:
    """The option, and those without which it means nothing."""
    sample = SAMPLES[name]
    options = {"master": "m"} if sample.base is WATCHED else {}
    if name == "ssl_keyfile":
        options["ssl_certfile"] = "/c.pem"
    return options | {name: sample.value}


def extras_of(name: str) -> dict[str, Any]:
    """The same as extras of a connection."""
    base = SAMPLES[name].base
    places = {"ssl": True} if base.tls else {"topology": str(base.topology)}
    return places | options_of(name)


def texts(options: dict[str, Any]) -> str:
    return urlencode({name: str(value) for name, value in options.items()}, quote_via=quote)


@pytest.mark.parametrize("name", OPTIONS)
def test_four_ways_to_say_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sample = SAMPLES[name]
    assert sample.expected != sample.base
    scheme = {SECURE: "rediss", WATCHED: "redis+sentinel"}.get(sample.base, "redis")
    monkeypatch.setenv(URL_VARIABLE, f"{scheme}://h:7000?{texts(options_of(name))}")
    assert Endpoint.from_env() == sample.expected
    monkeypatch.setenv("AIRFLOW_CONN_URI", f"nexus-redis://h:7000/?{texts(extras_of(name))}")
    assert NexusRedisHook("uri").endpoint == sample.expected
    document = {"conn_type": "nexus_redis", "host": "h", "port": 7000, "extra": extras_of(name)}
    monkeypatch.setenv("AIRFLOW_CONN_JSON", json.dumps(document))
    assert NexusRedisHook("json").endpoint == sample.expected
    # The form sends all its fields, in their own types.
    empty = {field: described["schema"].get("default") for field, described in FORM.items()}
    filled = json.dumps(empty | extras_of(name))
    form = Connection(conn_id="c", conn_type="nexus_redis", host="h", port=7000, extra=filled)
    monkeypatch.setattr(NexusRedisHook, "get_connection", lambda *_: form)
    assert NexusRedisHook("form").endpoint == sample.expected


# Those that have a place of their own in a URL.
PLACES = {"topology", "nodes", "db", "ssl", "sentinel_password"}


def test_the_form_has_a_field_for_each() -> None:
    assert set(FORM) == set(OPTIONS) | PLACES
    for name, field in FORM.items():
        assert field["label"], name
        assert field["description"].endswith("."), name
        is_masked = field["schema"].get("format") == "password"
        assert is_masked == (name == "sentinel_password"), name


def test_the_forms_defaults_are_the_endpoints() -> None:
    defaults = {field.name: field.default for field in fields(Endpoint)}
    defaults |= {f"ssl_{field.name}": field.default for field in fields(Tls)}
    for name in SAMPLES:
        assert FORM[name]["schema"].get("default") == defaults.get(name), name


def test_the_page_names_each_with_its_default() -> None:
    rows = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", PAGE.split("## Options")[1], re.MULTILINE
    )
    said = {name: default for names, default in rows for name in re.findall(r"\w+", names)}
    assert set(said) == set(OPTIONS)
    for name, default in said.items():
        known = FORM[name]["schema"].get("default")
        if known is None:
            assert "`" not in default, name
        else:
            assert default.strip("`") == str(known).lower(), name


@pytest.mark.parametrize(
    ("url", "uri"),
    [
        ("redis://h:1/3", "nexus-redis://h:1/3"),
        ("redis://u%2F:p%40@h", "nexus-redis://u%2F:p%40@h"),
        ("rediss://h", "nexus-redis://h/?ssl=true"),
        (
            "rediss+sentinel://a:1,b/2?master=m",
            "nexus-redis://a:1/2?topology=sentinel&nodes=b&master=m&ssl=true",
        ),
        ("redis+cluster://a:1,b", "nexus-redis://a:1/?topology=cluster&nodes=b"),
        ("redis+cluster://a:1,b", "redis://a:1/?cluster=true&startup_nodes=b"),
        ("unix:///run/R.sock?db=3", "nexus-redis://%2Frun%2FR.sock/3"),
        ("unix://u:p@/run/R.sock", "nexus-redis://u:p@%2Frun%2FR.sock"),
    ],
)
def test_places(url: str, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_PLACED", uri)
    assert NexusRedisHook("placed").endpoint == Endpoint.from_url(url)


def test_deployed_airflow_reaches_what_its_jobs_reach(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default, and as docs/deploy.md has it; each with a password of its own."""
    texts = [(ROOT / name).read_text("utf-8") for name in ("docker-compose.yml", "docs/deploy.md")]
    found = re.findall(r"\b(NEXUS_(?:AIRFLOW_CONN|SPARK_URL))(?:=|:-)([^\s}]+)", "\n".join(texts))
    for kind in ("redis:6379", "sentinel-1", "node-1"):
        said = {name: value for name, value in found if kind in value}
        monkeypatch.setenv("AIRFLOW_CONN_DEPLOYED", said["NEXUS_AIRFLOW_CONN"])
        of_jobs = said["NEXUS_SPARK_URL"].replace("spark", "airflow")
        assert NexusRedisHook("deployed").endpoint == Endpoint.from_url(of_jobs)
