"""Each role may do what it does, and nothing else: users.acl is held against our code."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from nexus_redis_provider.core.tags import stamp
from tests.deploy.jobs import JOBS, publish_in_every_way
from tests.deploy.programs import DEPLOY, ROOT
from tests.deploy.services import Service

USERS = {
    line.split()[1]: line.split()[2:]
    for line in (DEPLOY / "redis/users.acl").read_text("utf-8").splitlines()
    if line.startswith("user ")
}
ROLES = ("airflow", "spark", "api", "exporter", "sentinel", "replication", "admin")
# Any user may introduce itself. Redis 7.0 knows no CLIENT SETINFO, which redis-py sends.
ALWAYS = {"auth", "hello", "client|setinfo"}
# CONFIG would show passwords. Packed rows are in buckets of the usual size, then, and a backup has
# files of the usual names.
DONE_WITHOUT = {role: {"config|get"} for role in ("airflow", "spark", "backup")}
# test_cluster.py sends these.
OF_A_CLUSTER = {"asking", "cluster|nodes", "cluster|slots", "command", "readonly"}


@pytest.fixture
def admin(single: Service) -> Iterator[redis.Redis]:
    """A client for whom datasets are published, and nothing was refused yet."""
    with single.client() as client:
        client.flushall()
        # A copy need not wait for others that want one.
        client.config_set("repl-diskless-sync-delay", 0)
        publish_in_every_way(single.endpoint("admin"))
        # An event that held the server up has a history, which is asked for then.
        client.config_set("latency-monitor-threshold", 1)
        client.eval("for _ = 1, 10000000 do end", 0)
        assert client.execute_command("LATENCY LATEST")
        client.acl_log_reset()
        yield client


def test_there_is_a_user_of_each_role(single: Service) -> None:
    assert {*ROLES, *JOBS, "default"} == set(USERS)
    with single.client() as client:
        assert set(client.acl_users()) == set(USERS)


@pytest.mark.parametrize("role", JOBS)
def test_a_role_may_do_exactly_what_it_does(role: str, single: Service, admin: redis.Redis) -> None:
    if "unlink" in granted(role):
        admin.flushall()
    admin.script_flush()
    admin.config_resetstat()
    for job in JOBS[role]:
        job(single.endpoint(role))
    stats = admin.info("commandstats")
    sent = {name.removeprefix("cmdstat_") for name, told in stats.items() if told["calls"]}
    assert {entry["object"] for entry in admin.acl_log()} == DONE_WITHOUT.get(role, set())
    assert sent - ALWAYS - {"config|resetstat", "script|flush"} == granted(role) - OF_A_CLUSTER


def granted(role: str) -> set[str]:
    # Those in parentheses are for some keys only.
    rules = (rule.strip("()") for rule in USERS[role])
    return {rule[1:] for rule in rules if rule.startswith("+")} - ALWAYS


@pytest.mark.parametrize(
    ("role", "command"),
    [
        ("spark", "GET nexus:lock:{a}"),
        ("spark", "SET other 1"),
        ("spark", "SCAN 0"),
        ("spark", "KEYS *"),
        ("spark", "FLUSHALL"),
        ("spark", "CONFIG SET maxmemory 0"),
        ("spark", "EVAL return(redis.call('SET','other',1)) 0"),
        ("spark", "PUBLISH nexus:lock-wake:a 1"),
        ("spark", "SET nexus:tag:a 1"),
        ("spark", "UNLINK nexus:tag:a"),
        ("airflow", "SET other 1"),
        ("airflow", "UNLINK other"),
        ("airflow", "KEYS *"),
        ("airflow", "FLUSHDB"),
        ("airflow", "CONFIG SET maxmemory 0"),
        ("airflow", "ACL LIST"),
        ("airflow", "PUBLISH other 1"),
        ("airflow", "SHUTDOWN"),
        ("airflow", "CLIENT KILL TYPE normal"),
        ("api", "SET nexus:gold:sales:1:a 1"),
        ("api", "UNLINK nexus:gold:sales:1:a"),
        ("api", "SETNX nexus:gold:sales:1:a 1"),
        ("api", "PEXPIRE nexus:gold:{sales}:head 1"),
        ("api", "SET nexus:tag:a 1"),
        ("api", "EVAL return(redis.call('SET',KEYS[1],1)) 1 nexus:tag:a"),
        ("api", "UNLINK nexus:tag:a"),
        ("api", "EVAL return(redis.call('SET','nexus:gold:{sales}:head',1)) 0"),
        ("api", "EVAL return(redis.call('GET','other')) 0"),
        ("api", "GET nexus:lock:{a}"),
        ("backup", "GET nexus:gold:sales:1:a"),
        ("exporter", "GET nexus:gold:sales:1:a"),
        ("exporter", "SCAN 0"),
        ("exporter", "PSYNC ? -1"),
        ("sentinel", "GET nexus:gold:sales:1:a"),
        ("sentinel", "CONFIG SET maxmemory 0"),
        ("sentinel", "PUBLISH nexus:lock-wake:a 1"),
        ("replication", "GET nexus:gold:sales:1:a"),
        ("replication", "SET other 1"),
    ],
)
def test_a_role_is_refused_what_it_does_not_do(role: str, command: str, single: Service) -> None:
    with single.client() as admin, single.client(role) as client:
        admin.acl_log_reset()
        with pytest.raises(redis.ResponseError):
            client.execute_command(*command.split())
        assert {entry["username"] for entry in admin.acl_log()} == {role}


@pytest.mark.parametrize("role", sorted(USERS.keys() - {"admin", "default"}))
def test_nobody_else_may_see_the_password_of_replicas(role: str, single: Service) -> None:
    with single.client() as admin, single.client(role) as client:
        assert admin.config_get("masterauth")["masterauth"]
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.config_get("masterauth")


@pytest.fixture
def storing(secrets: Path, binaries: None, tmp_path: Path) -> Iterator[Service]:
    """A cache whose user `api` has what the page says that who stores responses needs."""
    page = (ROOT / "docs/deploy.md").read_text("utf-8")
    (line,) = re.findall(r"^\(~.+\)$", page, re.MULTILINE)
    users = (DEPLOY / "redis/users.acl").read_text("utf-8")
    assert line in users
    deploy, own_secrets = tmp_path / "deploy", tmp_path / "secrets"
    shutil.copytree(DEPLOY, deploy)
    shutil.copytree(secrets, own_secrets)
    users = re.sub(r"^user api .*$", rf"\g<0> {line}", users, flags=re.MULTILINE)
    (deploy / "redis/users.acl").write_text(users, "utf-8")
    subprocess.run([deploy / "secrets.sh", own_secrets], check=True, capture_output=True)
    with Service(("cache",), own_secrets, tmp_path / "data") as service:
        yield service


def test_api_may_store_what_it_stamped_and_nothing_else(storing: Service) -> None:
    with storing.endpoint("api").client() as client:
        client.set(f"api:prices:{stamp(client, ['prices'])}", "5", ex=300)
        assert client.get(f"api:prices:{stamp(client, ['prices'])}") == b"5"
        for other in ("nexus:lock:{a}", "nexus:gold:{sales}:head", "nexus:tag:prices", "other"):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.set(other, "5")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("nexus:lock:{a}")


@pytest.mark.parametrize("who", [{}, {"username": "api"}, {"username": "default", "password": ""}])
def test_nobody_is_let_in_without_a_password(who: dict[str, str], single: Service) -> None:
    with (
        redis.Redis(port=single.port, retry=None, **who) as stranger,
        pytest.raises(redis.AuthenticationError),
    ):
        stranger.ping()
