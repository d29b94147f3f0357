"""`nexus-redis ping`: whether a server can be used, and what is wrong if not."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import asdict
from typing import Any

from nexus_redis_provider.cli.running import DENIED, MISUSED, UNREACHABLE, Answer
from nexus_redis_provider.core.diagnosis import Diagnosis, diagnose
from nexus_redis_provider.core.endpoint import Endpoint

# By what is to be corrected; what is not here is a wrong use or configuration.
_CODES = dict.fromkeys(("host", "port", "server", "TLS"), UNREACHABLE)
_CODES |= dict.fromkeys(("password", "user or password", "permissions"), DENIED)


def ping(endpoint: Endpoint, _: Namespace) -> Answer:
    """What `diagnose` finds out; a fault is a complaint."""
    found = diagnose(endpoint)
    if found.fault is None:
        return Answer(_document(found), lambda: [found.message])
    code = _CODES.get(found.fault.field, MISUSED)
    return Answer(_document(found), tuple, complaints=(found.message,), code=code)


def _document(found: Diagnosis) -> dict[str, Any]:
    return {
        "ok": found.fault is None,
        "where": found.where,
        "fault": found.fault and found.fault.name.lower(),
        "field": found.fault and found.fault.field,
        "message": found.message,
        "notes": found.notes,
        "report": found.report and asdict(found.report),
    }
