"""What each part loads, seen in a fresh interpreter that runs from the built wheel."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
AIRFLOW_PARTS = ("assets", "decorators", "hooks", "operators", "sensors", "triggers")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return wheel


def modules_of(part: str) -> list[str]:
    folder = ROOT / "nexus_redis_provider" / part
    files = sorted(folder.rglob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    names = (file.relative_to(ROOT).with_suffix("").parts for file in files)
    return [".".join(name).removesuffix(".__init__") for name in names]


def loaded_by(wheel: Path, modules: list[str], tmp_path: Path) -> set[str]:
    """Names in `sys.modules` after importing these from the wheel, as Spark imports a zip."""
    code = (
        "import importlib, json, sys\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        f"for name in {modules!r}: module = importlib.import_module(name)\n"
        f"assert module.__file__.startswith({str(wheel)!r}), module.__file__\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    environment = {"AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return set(json.loads(ran.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    ("part", "absent"),
    [
        ("__init__", {"redis", "airflow", "pyspark", "pyarrow", "importlib.metadata"}),
        ("get_provider_info", {"redis", "airflow", "pyspark", "pyarrow"}),
        ("embedded", {"airflow", "pyspark", "pyarrow", "fastapi"}),
        ("core", {"airflow", "pyspark", "fastapi"}),
        ("spark", {"airflow", "fastapi"}),
        ("cli/commands", {"airflow", "pyspark", "pyarrow", "redis", "rich"}),
        ("cli/main", {"airflow", "pyspark", "pyarrow", "rich"}),
        ("cli/locks", {"airflow", "pyspark", "pyarrow", "rich"}),
        ("cli/backups", {"airflow", "pyspark", "pyarrow", "rich"}),
        ("cli/keys", {"airflow", "pyspark", "pyarrow", "rich"}),
        ("cli/servers", {"airflow", "pyspark", "pyarrow", "rich"}),
        *((part, {"pyspark", "pyarrow"}) for part in AIRFLOW_PARTS),
    ],
)
def test_part_loads_only_its_own(wheel, tmp_path, part, absent):
    loaded = loaded_by(wheel, modules_of(part), tmp_path)
    assert not absent & loaded


def test_readers_and_locks_need_no_pyarrow(wheel, tmp_path):
    modules = ["nexus_redis_provider.core.gold.readers", "nexus_redis_provider.core.locks"]
    assert "pyarrow" not in loaded_by(wheel, modules, tmp_path)


def test_airflows_command_line_loads_nothing_more(wheel, tmp_path):
    given = ["airflow.cli.cli_config", "nexus_redis_provider"]
    ours = "nexus_redis_provider.cli.definition"
    loaded = loaded_by(wheel, [*given, ours], tmp_path) - loaded_by(wheel, given, tmp_path)
    assert ours in loaded
    assert {name for name in loaded if "redis" in name} == {
        "nexus_redis_provider.cli",
        "nexus_redis_provider.cli.backup_commands",
        "nexus_redis_provider.cli.commands",
        "nexus_redis_provider.cli.declaring",
        "nexus_redis_provider.cli.definition",
        "nexus_redis_provider.cli.server_commands",
        "nexus_redis_provider.core",
        "nexus_redis_provider.core.errors",
        "nexus_redis_provider.core.keys",
    }
    assert {name.split(".")[0] for name in loaded} - sys.stdlib_module_names == {
        "nexus_redis_provider"
    }


def test_wheel_holds_every_script_and_no_test(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    scripts = {str(p.relative_to(ROOT)) for p in ROOT.glob("nexus_redis_provider/**/*.lua")}
    assert scripts
    assert scripts <= names
    assert "nexus_redis_provider/py.typed" in names
    roots = {name.split("/")[0] for name in names}
    assert roots == {"nexus_redis_provider", "nexus_redis_provider-0.1.0.dist-info"}


def test_scripts_run_from_the_wheel(wheel, server, tmp_path):
    code = (
        "import sys\n"
        f"sys.path.insert(0, {str(wheel)!r})\n"
        "from nexus_redis_provider.core import locks\n"
        "from nexus_redis_provider.core.endpoint import Endpoint\n"
        f"assert locks.__file__.startswith({str(wheel)!r})\n"
        f"with locks.Lock(Endpoint.from_url({server.url!r}), 'wheel', lease=5) as lock:\n"
        "    print(lock.token)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    assert int(ran.stdout) > 10**15
