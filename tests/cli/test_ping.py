"""`nexus-redis ping` says what a server is, or what is wrong with it, and exits accordingly."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from nexus_redis_provider.cli.main import main
from nexus_redis_provider.core.endpoint import Topology
from nexus_redis_provider.embedded import EmbeddedServer
from tests.cli.conftest import Call
from tests.kinds import single_server
from tests.urls import url_of


@single_server
def test_a_server_for_people_and_as_a_document(call: Call, server: EmbeddedServer) -> None:
    shown = call("ping")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith("Standalone: ")
    document = call("ping", "--json").json
    assert document["ok"] is True
    assert (document["fault"], document["field"], document["notes"]) == (None, None, [])
    assert document["report"]["address"] == f"127.0.0.1:{server.port}"
    assert document["report"]["role"] == "master"


@pytest.mark.parametrize(
    ("url", "code", "fault"),
    [
        ("redis://127.0.0.1:1", 3, "refused"),
        ("{cluster}", 2, "no_cluster"),
        ("{stranger}", 4, "wrong_user_or_password"),
    ],
)
@single_server
def test_a_fault(
    url: str,
    code: int,
    fault: str,
    server: EmbeddedServer,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cluster = url_of(replace(server.endpoint, topology=Topology.CLUSTER))
    stranger = url_of(server.endpoint, "nobody:hunter2")
    words = ["--url", url.format(cluster=cluster, stranger=stranger), "ping"]
    assert main(words) == code
    out, err = capsys.readouterr()
    assert not out
    assert main([*words, "--json"]) == code
    written, complaint = capsys.readouterr()
    document = json.loads(written)
    assert (document["ok"], document["fault"], document["report"]) == (False, fault, None)
    assert err == complaint == f"nexus-redis: {document['message']}\n"
    assert "hunter2" not in err + written


def test_what_cannot_be_tried(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--url", "redis://h?password_env=NOT_SET", "ping"]) == 2
    assert "NOT_SET" in capsys.readouterr().err
