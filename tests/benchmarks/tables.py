"""Tables of figures in Markdown, and the conditions under which they came about."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from importlib import metadata

import redis


def heading(title: str) -> None:
    print(f"\n### {title}\n", flush=True)


def table(header: str, rows: Iterable[Sequence[str]]) -> None:
    """Print it, under the titles in `header`; all columns but the first are of numbers."""
    titles = header.split(" | ")
    lines = [titles, *map(list, rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(titles))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    for line in (lines[0], rule, *lines[1:]):
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print(f"| {' | '.join(cells)} |")
    print(flush=True)


def conditions(client: redis.Redis, *packages: str) -> str:
    """Versions of the server, Python and the packages, and the machine's cores."""
    server = client.info("server")
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = server.get("valkey_version", server["redis_version"])
    versions = [f"{package} {metadata.version(package)}" for package in packages]
    python = f"Python {platform.python_version()}"
    return f"{', '.join([f'{name} {version}', python, *versions])}; {os.cpu_count()} cores."


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
