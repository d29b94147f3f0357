"""docker-compose.yml is what Compose understands, keeps secrets out, and bounds what it starts."""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
import yaml

from nexus_redis_provider.core.endpoint import Endpoint
from tests.deploy.programs import DEPLOY, ROOT, need

FILE = ROOT / "docker-compose.yml"
COMPOSE = yaml.safe_load(FILE.read_text("utf-8"))
SERVICES = COMPOSE["services"]
PROFILES = {"ha", "cluster", "platform", "monitoring"}
JOBS = {name for name, service in SERVICES.items() if service["restart"] == "no"}
# Of Redis, Sentinels included.
SERVERS = {n for n, s in SERVICES.items() if "/etc/redis/start.sh" in s.get("command", ())}


def of_profile(profile: str | None) -> set[str]:
    wanted = None if profile is None else [profile]
    return {name for name, service in SERVICES.items() if service.get("profiles") == wanted}


def by_default(text: object) -> str:
    """With its variables at their defaults."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(text))


def mounts(name: str) -> list[list[str]]:
    """Source, target and options of what a service mounts."""
    return [by_default(volume).split(":") for volume in SERVICES[name].get("volumes", [])]


def test_compose_understands_it() -> None:
    prefix = Path(need("docker-compose")).resolve().parents[1]
    schema = prefix / "lib/python3/dist-packages/compose/config/compose_spec.json"
    if schema.is_file():
        # It is older than the name of a project.
        named = {key: value for key, value in COMPOSE.items() if key != "name"}
        jsonschema.Draft201909Validator(json.loads(schema.read_text("utf-8"))).validate(named)
    else:  # Since 2.0 it is a program in one file.
        command = ["docker-compose", "--file", FILE, *(f"--profile={p}" for p in PROFILES)]
        subprocess.run([*command, "config", "--quiet"], check=True)


def test_each_profile_has_what_it_is_for() -> None:
    assert of_profile(None) == {"redis"}
    assert set().union(*(set(s.get("profiles", [])) for s in SERVICES.values())) == PROFILES
    ha = {f"{kind}-{n}" for kind in ("redis", "sentinel") for n in (1, 2, 3)}
    assert of_profile("ha") == ha | {"redis-cache"}
    assert of_profile("cluster") == {f"node-{n}" for n in range(1, 7)} | {"cluster-slots"}
    assert of_profile("monitoring") == {"exporter", "prometheus", "grafana"}
    parts = {"airflow-scheduler", "airflow-triggerer", "spark-master", "spark-worker-2"}
    assert parts | {"clickhouse"} < of_profile("platform")


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_needs_is_there_with_it(name: str) -> None:
    there = of_profile(None).union(*map(of_profile, SERVICES[name].get("profiles", [])))
    assert set(SERVICES[name].get("depends_on", ())) <= there


@pytest.mark.parametrize("name", SERVICES)
def test_images_have_an_exact_tag(name: str) -> None:
    _, _, tag = SERVICES[name]["image"].partition(":")
    assert re.search(r"\d+\.\d+", tag)


def test_redis_is_what_the_platform_runs() -> None:
    assert {SERVICES[name]["image"].rsplit(".", 1)[0] for name in SERVERS} == {"redis:7.2"}


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_takes_is_limited(name: str) -> None:
    service = SERVICES[name]
    assert re.fullmatch(r"\d+[mg]", service["mem_limit"])
    assert service["cpus"] > 0
    assert service["pids_limit"] > 0
    assert service["cap_drop"] == ["ALL"]


def test_clickhouse_may_have_the_threads_that_it_starts_with() -> None:
    # Of one pool alone 512 (ClickHouse/ClickHouse#81041), and in all some 800 while it idles.
    assert SERVICES["clickhouse"]["pids_limit"] > 1000


@pytest.mark.parametrize("name", SERVICES)
def test_it_has_time_to_end(name: str) -> None:
    """A primary waits ten seconds for its replicas (`shutdown-timeout`), and then saves its log."""
    assert SERVICES[name]["stop_grace_period"] == "1m"


def test_a_server_that_loads_its_data_is_not_given_up() -> None:
    """Who waits for it would end with an error as soon as it is called unhealthy."""
    servers = [s for s in SERVICES.values() if "/data" in str(s.get("volumes"))]
    redis = [service for service in servers if service["image"].startswith("redis:")]
    assert {service["healthcheck"]["start_period"] for service in redis} == {"5m"}


def test_airflow_is_not_given_up_while_its_machine_is_busy() -> None:
    """`airflow jobs check` took 8 s of two CPUs that had much else to do."""
    parts = [s for s in SERVICES.values() if "airflow jobs check" in str(s["healthcheck"])]
    assert len(parts) == 3
    assert {part["healthcheck"]["timeout"] for part in parts} == {"30s"}


def test_postgres_is_not_healthy_before_it_is_complete() -> None:
    """Until then it answers by its socket alone (docker-library/postgres#146)."""
    test = SERVICES["postgres"]["healthcheck"]["test"]
    assert test[test.index("--host") + 1] == "127.0.0.1"


@pytest.mark.parametrize("name", SERVICES)
def test_its_health_is_looked_at(name: str) -> None:
    health = SERVICES[name]["healthcheck"]
    if name in JOBS:
        # Whoever waits for one waits for its end.
        assert health == {"disable": True}
    else:
        assert health["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", SERVICES)
def test_who_waits_for_it_waits_for_the_right_thing(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        ended, healthy = "service_completed_successfully", "service_healthy"
        assert how == {"condition": ended if other in JOBS else healthy}


def test_a_service_that_ends_has_another_that_waits_for_its_end() -> None:
    """`up --wait` would end with an error (docker/compose#10596)."""
    assert {n for s in SERVICES.values() for n in s.get("depends_on", ())} >= JOBS
    assert JOBS


def test_what_an_image_is_built_from_is_let_in() -> None:
    (built,) = {s["build"]["dockerfile"] for s in SERVICES.values() if "build" in s}
    lines = (ROOT / built).read_text("utf-8").splitlines()
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ")]
    of_others = [words[0] for words in copies if words[0].startswith("--from=")]
    assert of_others == [f"--from={SERVICES['redis']['image']}-bookworm"]
    copied = {name for words in copies if words[0] not in of_others for name in words}
    ignoring = (ROOT / ".dockerignore").read_text("utf-8").splitlines()
    let_in = {line[1:] for line in ignoring if line.startswith("!")}
    for name in copied:
        assert (ROOT / name).exists()
        assert {name, str(Path(name).parent)} & let_in


def test_an_image_is_built_by_one_service_and_for_any_machine() -> None:
    """Builds of the same name at the same time fail where it is not there yet."""
    built = [service for service in SERVICES.values() if "build" in service]
    assert len({service["image"] for service in built}) == len(built)
    users = [service for service in SERVICES.values() if service["image"] == built[0]["image"]]
    assert len(users) > 1
    # It has no entrypoint that would do what an init does.
    assert all(service["init"] is True for service in users)
    dockerfile = (ROOT / built[0]["build"]["dockerfile"]).read_text("utf-8")
    assert not re.search("amd64|arm64|x86_64|aarch64", dockerfile)


def test_an_image_is_built_anew_for_another_version() -> None:
    """Compose goes on with an image that is there under its tag."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert {s["image"] for s in SERVICES.values() if "build" in s} == {
        f"nexus-redis-platform:{version}"
    }


def test_what_is_installed_in_an_image_has_a_version() -> None:
    dockerfile = (ROOT / "deploy/platform/Dockerfile").read_text("utf-8").replace("\\\n", "")
    words = " ".join(re.findall(r"pip install ([^&\n]*)", dockerfile)).split()
    assert {"-c", "constraints.txt"} < set(words)
    constrained = re.findall(
        r"^[\w.-]+(?===)", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
    mine = {
        "-c",
        "constraints.txt",
        "--no-cache-dir",
        "--no-deps",
        "'.[airflow,spark,cli,hiredis]'",
    }
    assert {word for word in words if "==" not in word} - mine <= set(constrained)


def test_driver_and_executors_read_the_same_files() -> None:
    for name in ("airflow-scheduler", "spark-worker-1", "spark-worker-2"):
        assert ["data", "/data"] in mounts(name)
    # A volume has the owner that its folder has in the image.
    dockerfile = (ROOT / "deploy/platform/Dockerfile").read_text("utf-8")
    (folders,) = re.findall(r"chown nexus (.*)", dockerfile)
    shared = {target for _, target, *rest in mounts("airflow-scheduler") if not rest}
    assert set(folders.split()) == shared


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_files_exist(name: str) -> None:
    local = [source for source, *_ in mounts(name) if source.startswith(".")]
    assert [source for source in local if not (ROOT / source).exists()] == []
    assert all(options == ["ro"] for source, _, *options in mounts(name) if source in local)


def test_a_file_that_a_variable_names_is_not_mounted_as_a_volume() -> None:
    """Where it is missing, a folder would be made in its place, and Prometheus watch nothing."""
    assert not any("$" in str(service.get("volumes")) for service in SERVICES.values())
    for name, config in COMPOSE["configs"].items():
        assert (ROOT / by_default(config["file"])).is_file()
        (target,) = [c["target"] for c in SERVICES["prometheus"]["configs"] if c["source"] == name]
        assert Path(target).name == name


def test_volumes_are_named_and_used_by_one_service_each() -> None:
    used = [s for name in SERVICES for s, *_ in mounts(name) if not s.startswith((".", "/"))]
    assert set(used) == set(COMPOSE["volumes"])
    # Airflow's parts share these; the last one with Spark's workers.
    assert {name for name in used if used.count(name) > 1} == {"airflow-home", "backups", "data"}


def test_servers_have_a_volume() -> None:
    kept = {"/data", "/var/lib/postgresql/data", "/var/lib/clickhouse", "/prometheus"}
    for name in SERVERS:
        assert "/data" in {target for _, target, *_ in mounts(name)}
    assert kept <= {target for name in SERVICES for _, target, *_ in mounts(name)}


@pytest.mark.parametrize("name", SERVICES)
def test_ports_are_bound_to_this_machine(name: str) -> None:
    ports = SERVICES[name].get("ports", [])
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_secrets_are_files_that_the_script_makes(secrets: Path) -> None:
    assert {s for name in SERVICES for s in SERVICES[name].get("secrets", [])} == set(
        COMPOSE["secrets"]
    )
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": f"${{NEXUS_SECRETS:-./secrets}}/{name}"}
        found = (secrets / name).stat()
        assert found.st_size
        # A container has its own users, and the mode of the file on the host.
        assert found.st_mode & 0o444 == 0o444
    assert secrets.stat().st_mode & 0o077 == 0
    assert (secrets / "ca.key").stat().st_mode & 0o077 == 0


def test_no_secret_stands_in_the_repository(secrets: Path) -> None:
    files = [FILE, *(path for path in DEPLOY.rglob("*") if path.is_file())]
    texts = [path.read_text("utf-8") for path in files]
    for path in secrets.iterdir():
        if path.suffix != ".acl":
            assert not any(path.read_text("utf-8").strip() in text for text in texts)
    ignored = (ROOT / ".gitignore").read_text("utf-8").splitlines()
    assert {"/secrets/", ".env"} <= set(ignored)
    for environment in (service.get("environment", {}) for service in SERVICES.values()):
        for variable, value in environment.items():
            if re.search("PASSWORD|SECRET|KEY", variable):
                assert re.search(r"_FILE$|_CMD$", variable), variable
            # A URL may name a user, but a password only by where it is.
            assert "_CMD" in variable or not re.search(r"://[^/@]*:[^/@]*@", str(value)), variable


def settings() -> dict[str, list[str]]:
    """What docs/deploy.md has written into `.env`, each after what it is by default."""
    environment = SERVICES["airflow-scheduler"]["environment"]
    lines = [line for v in environment.values() for line in re.findall(r"\$\{(\w+:-.*)\}", v)]
    found = {name: [default] for name, default in (line.split(":-", 1) for line in lines)}
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    for name, value in re.findall(r"^(\w+)=(\S+://\S+)$", page, re.MULTILINE):
        found[name].append(value)
    return found


def test_urls_name_a_user_and_where_the_password_is() -> None:
    urls = settings()["NEXUS_SPARK_URL"]
    assert len(urls) == 4
    users = (DEPLOY / "redis/users.acl").read_text("utf-8")
    for url in urls:
        endpoint = Endpoint.from_url(url)
        assert f"user {endpoint.username} " in users
        assert {str(node.host) for node in endpoint.nodes} <= set(SERVICES)
        assert endpoint.password is not None
        assert endpoint.password.is_reference


@pytest.mark.parametrize("name", sorted(SERVICES.keys() - JOBS))
def test_secrets_that_it_reads_are_there(name: str) -> None:
    service = SERVICES[name]
    granted = set(service.get("secrets", ()))
    said = [service.get(part) for part in ("command", "entrypoint", "environment")]
    # And what `.env` may say; an executor reads what its driver tells it of.
    said += settings()["NEXUS_SPARK_URL"] if "spark" in granted else []
    said += [list(settings().values())] if "airflow" in granted else []
    assert set(re.findall(r"/run/secrets/([\w.]+)", str(said))) <= granted


def test_limits_hold_what_a_server_may_take() -> None:
    for role in ("state", "cache"):
        conf = (DEPLOY / f"redis/{role}.conf").read_text("utf-8")
        assert re.search(r"^maxmemory 512mb$", conf, re.MULTILINE)
    for name, service in SERVICES.items():
        if {"state", "cache"} & set(service.get("command", ())):
            assert service["mem_limit"] == "1g", name
