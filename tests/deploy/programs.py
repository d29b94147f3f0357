"""Programs that the tests of deploy/ run; `.ci/deploy-tools` brings those that are missing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"


def need(program: str) -> str:
    """The path of a program; else a skip, or a failure where CI promises it."""
    if found := shutil.which(program):
        return found
    message = f"There is no {program} on the PATH: `make test` brings it where apt-get is."
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)
