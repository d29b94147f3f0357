"""The exporter has what alerts and dashboard ask for, under its user; Prometheus sees all of it."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from nexus_redis_provider.core.gold.tables import publish_table
from nexus_redis_provider.embedded import free_port
from tests.deploy.deployments import Cluster, HighAvailability
from tests.deploy.jobs import CHANGED
from tests.deploy.programs import DEPLOY, need
from tests.deploy.services import Service
from tests.deploy.test_compose import SERVICES
from tests.deploy.test_users import granted
from tests.topologies import until

DASHBOARD = json.loads((DEPLOY / "grafana/dashboards/redis.json").read_text("utf-8"))
RULES = (DEPLOY / "prometheus/alerts.yml").read_text("utf-8")
# Newer exporters than Debian's ask for it, too.
OF_NEWER_ONES = {"latency|histogram"}


def expressions() -> list[str]:
    """All of PromQL in alerts and dashboard."""
    of_alerts = [rule["expr"] for rule in yaml.safe_load(RULES)["groups"][0]["rules"]]
    targets = [target for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    return of_alerts + [target["expr"] for target in targets]


def names(text: str) -> set[str]:
    return set(re.findall(r"\bredis_[a-z0-9_]+", text))


def ask(url: str) -> str:
    with urllib.request.urlopen(url, timeout=20) as reply:
        return reply.read().decode()


@contextmanager
def running(*command: object, ready: str, **options: Any) -> Iterator[None]:
    with subprocess.Popen(
        [str(word) for word in command],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **options,
    ) as process:

        def answers() -> bool:
            assert process.poll() is None
            try:
                return bool(ask(ready))
            except OSError:
                return False

        try:
            until(answers, f"{command[0]} that answers")
            yield
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def exporter(secrets: Path) -> Iterator[str]:
    """Its address; it runs with the environment that docker-compose.yml gives it."""
    address = f"127.0.0.1:{free_port()}"
    given = SERVICES["exporter"]["environment"]
    environment = {name: text.replace("/run/secrets", str(secrets)) for name, text in given.items()}
    environment |= {
        "REDIS_PASSWORD": (secrets / "exporter").read_text("utf-8").strip(),
        "REDIS_EXPORTER_WEB_LISTEN_ADDRESS": address,
    }
    with running(
        need("prometheus-redis-exporter"), ready=f"http://{address}/health", env=environment
    ):
        yield address


def exported(exporter: str, server: Service) -> str:
    scheme = "rediss" if server.tls else "redis"
    return ask(f"http://{exporter}/scrape?target={scheme}://localhost:{server.port}")


def test_every_metric_that_is_asked_for_is_there(
    exporter: str, single: Service, ha: HighAvailability, cluster: Cluster
) -> None:
    publish_table(CHANGED, "json", key="id", endpoint=single.endpoint("spark"))
    servers = (single, *ha.servers, ha.sentinels[0], cluster.nodes[0])
    there = set().union(*(names(exported(exporter, server)) for server in servers))
    wanted = set().union(*map(names, expressions()))
    assert len(wanted) > 30
    assert wanted - there == set()


def test_the_user_of_the_exporter_is_refused_nothing(
    exporter: str, single: Service, ha: HighAvailability, cluster: Cluster
) -> None:
    used = set()
    for server in (single, ha.primary, cluster.nodes[0]):
        with server.client() as client:
            client.acl_log_reset()
            client.config_resetstat()
            assert "redis_up 1" in exported(exporter, server)
            stats = client.info("commandstats")
            used |= {name.removeprefix("cmdstat_") for name in stats}
            assert client.acl_log() == []
    # The health check of containers sends PING as this user, too.
    assert granted("exporter") - OF_NEWER_ONES - {"ping"} - used == set()
    with ha.sentinels[0].client() as client:
        client.acl_log_reset()
        assert "redis_sentinel_master_ok_slaves" in exported(exporter, ha.sentinels[0])
        assert client.acl_log() == []


def test_the_exporter_shows_a_certificate_where_it_is_asked_for_one(
    exporter: str, secrets: Path, binaries: None, tmp_path: Path
) -> None:
    with Service(("state",), secrets, tmp_path / "data", tls="mutual") as server:
        assert "redis_up 1" in exported(exporter, server)


def test_prometheus_tells_servers_apart(
    exporter: str, ha: HighAvailability, tmp_path: Path
) -> None:
    """The very configuration, but for addresses and intervals, reaches every server and rule."""
    text = (DEPLOY / "prometheus/prometheus.yml").read_text("utf-8")
    text = text.replace("exporter:9121", exporter).replace("15s", "1s")
    (tmp_path / "prometheus.yml").write_text(text)
    (tmp_path / "alerts.yml").write_text(RULES)
    targets = (DEPLOY / "prometheus/targets/ha.yml").read_text("utf-8")
    for kind, servers in (("redis", ha.servers), ("sentinel", ha.sentinels)):
        for number, server in enumerate(servers, 1):
            targets = re.sub(rf"{kind}-{number}:\d+", f"localhost:{server.port}", targets)
    (tmp_path / "targets.yml").write_text(targets)
    address = f"127.0.0.1:{free_port()}"
    with running(
        need("prometheus"),
        f"--config.file={tmp_path}/prometheus.yml",
        f"--storage.tsdb.path={tmp_path}/data",
        f"--web.listen-address={address}",
        ready=f"http://{address}/-/ready",
    ):

        def found(expression: str) -> list[dict[str, Any]]:
            query = urllib.parse.urlencode({"query": expression})
            reply = json.loads(ask(f"http://{address}/api/v1/query?{query}"))
            return reply["data"]["result"]

        until(lambda: len(found("redis_up == 1")) == 6, "all servers that were started", 40)
        ports = {server.port for server in (*ha.servers, *ha.sentinels)}
        instances = {one["metric"]["instance"] for one in found("redis_up == 1")}
        assert instances == {f"localhost:{port}" for port in ports}
        (primary,) = found('redis_instance_info{role="master", replicated="yes"}')
        assert primary["metric"]["instance"] == f"localhost:{ha.primary.port}"
        # The cache was not started here.
        until(lambda: found('ALERTS{alertname="RedisDown"}'), "an alert that waits", 20)
        (down,) = found('ALERTS{alertname="RedisDown"}')
        assert down["metric"]["instance"] == "redis-cache:6379"
        others = 'ALERTS{alertname!="RedisDown", alertname!="RedisRestarted"}'
        until(lambda: not found(others), "quiet, once all servers have been seen")


def test_the_dashboard_is_one() -> None:
    assert DASHBOARD["uid"]
    panels = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    folder = DEPLOY / "grafana/provisioning"
    (source,) = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    for panel in panels:
        assert panel["datasource"] == {"type": source["type"], "uid": source["uid"]}
        assert all(target["expr"] for target in panel["targets"])
    (provider,) = yaml.safe_load((folder / "dashboards/files.yml").read_text())["providers"]
    mounted = [v.split(":")[1] for v in SERVICES["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
