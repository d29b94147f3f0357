"""The kind of server that the whole suite runs on: NEXUS_TEST_SERVER names it.

Unset, it is a plain one. `tls` is a server as an installation has it: users with passwords,
encrypted lines.
"""

from __future__ import annotations

import os

import pytest

KINDS = ("", "tls")
KIND = os.environ.get("NEXUS_TEST_SERVER", "")
if KIND not in KINDS:
    raise pytest.UsageError(f"NEXUS_TEST_SERVER={KIND}: the kinds are {', '.join(KINDS[1:])}")
plain = pytest.mark.skipif(KIND == "tls", reason="It is about an open server, in the clear.")
