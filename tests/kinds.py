"""The kind of server that the whole suite runs on: NEXUS_TEST_SERVER names it.

Unset, it is a plain one. `tls` is a server as an installation has it: users with passwords,
encrypted lines. `sentinel` is a primary with a replica, found by its Sentinels, and `cluster` three
primaries.
"""

from __future__ import annotations

import os

import pytest

KINDS = ("", "tls", "sentinel", "cluster")
KIND = os.environ.get("NEXUS_TEST_SERVER", "")
if KIND not in KINDS:
    raise pytest.UsageError(f"NEXUS_TEST_SERVER={KIND}: the kinds are {', '.join(KINDS[1:])}")
plain = pytest.mark.skipif(KIND != "", reason="It is about one open server, in the clear.")
single_server = pytest.mark.skipif(
    KIND in ("sentinel", "cluster"), reason="It is about one server, by its own address."
)
unspread = pytest.mark.skipif(KIND == "cluster", reason="It is about keys that one server has.")
# They are written in transactions, which no Cluster has, and refused there by name.
with_hashes = pytest.mark.skipif(KIND == "cluster", reason="Hashes are not written to a Cluster.")
