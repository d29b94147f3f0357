"""Which DAG runs live, in place of Airflow's database: a file for each run that does."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

DEPLOYMENT = "prod"


class Oracle:
    """Answers as a scheduler would; who changes an answer writes that into its log first."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "runs"
        self._directory.mkdir(exist_ok=True)

    def is_alive(self, owner: str) -> bool:
        return self._path(owner).exists()

    def begin(self, owner: str) -> None:
        self._path(owner).touch()

    def end(self, owner: str) -> None:
        self._path(owner).unlink(missing_ok=True)

    def runs_of(self, worker: int) -> list[str]:
        """Owners that live and are worked for by a worker."""
        runs = (unquote(path.name) for path in self._directory.iterdir())
        return sorted(run for run in runs if run.rpartition("/")[2].startswith(f"{worker}-"))

    def _path(self, owner: str) -> Path:
        return self._directory / quote(owner, safe="")


def new_run(name: str, worker: int, number: str) -> str:
    """The owner that a run of the DAG `name` holds the lock `name` by."""
    return f"{DEPLOYMENT}/{name}/{worker}-{number}"


def name_of(run: str) -> str:
    """The lock that a run needs."""
    return run.split("/")[1]
