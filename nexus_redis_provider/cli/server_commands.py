"""The commands on the keys of a server, whatever they belong to, and on the server itself."""

from __future__ import annotations

import os

from nexus_redis_provider.cli.declaring import JSON, Command, Group, Subject, option

_KEYS = "nexus_redis_provider.cli.keys"
# Keys may have any bytes.
_GLOB = {"metavar": "PATTERN", "type": os.fsencode}
_PATTERN = option(
    "pattern", **_GLOB, help="a glob, such as 'session:*'; \\ before a sign that is none"
)
_ANY_PATTERN = option("pattern", **_GLOB, nargs="?", default="*", help="a glob (default: all keys)")
_TYPE = option("--type", metavar="TYPE", help="only keys of this type, such as hash")
_SAMPLES = option(
    "--samples",
    metavar="N",
    type=int,
    default=5,
    help="elements of a collection that are weighed (default: 5); 0 for all, which is slow",
)

KEYS = Group(
    "keys",
    "what keys there are, what they take, and removal by pattern; of a Cluster, on all nodes",
    (
        Command(
            "scan",
            "list keys by SCAN, which holds nobody up",
            f"{_KEYS}:scan_keys",
            (
                _ANY_PATTERN,
                _TYPE,
                option("--limit", metavar="N", type=int, help="stop after so many"),
                JSON,
            ),
        ),
        Command(
            "delete",
            "unlink all keys like a pattern, in batches",
            f"{_KEYS}:delete_keys",
            (
                _PATTERN,
                _TYPE,
                option("--dry-run", action="store_true", help="count them only"),
                option("--force", action="store_true", help="required to remove them"),
                JSON,
            ),
        ),
        Command(
            "big",
            "list the keys that take most memory",
            f"{_KEYS}:list_big_keys",
            (
                _ANY_PATTERN,
                option("--top", metavar="N", type=int, default=20, help="how many (default: 20)"),
                _SAMPLES,
                JSON,
            ),
        ),
        Command(
            "memory",
            "say what keys take together",
            f"{_KEYS}:weigh_keys",
            (_ANY_PATTERN, _SAMPLES, JSON),
        ),
    ),
    has_namespace=False,
)

_SERVERS = "nexus_redis_provider.cli.servers"

SERVER = Group(
    "server",
    "what the server says of itself; of a Cluster, each primary",
    (
        Command(
            "info",
            "show version, role, memory, clients, persistence and replication",
            f"{_SERVERS}:show_servers",
            (JSON,),
        ),
        Command(
            "slowlog",
            "list commands that took long, newest first",
            f"{_SERVERS}:list_slow_commands",
            (
                option(
                    "--count",
                    metavar="N",
                    type=int,
                    default=128,
                    help="of each server, at most (default: 128)",
                ),
                JSON,
            ),
        ),
        Command(
            "latency",
            "measure the round trip from here, and list what held the server up",
            f"{_SERVERS}:show_latencies",
            (
                option(
                    "--count",
                    metavar="N",
                    type=int,
                    default=100,
                    help="round trips to measure (default: 100)",
                ),
                JSON,
            ),
        ),
    ),
    has_namespace=False,
)

PING = Command(
    "ping",
    "tell whether the server can be used: what it says of itself, or what is wrong, such as host, "
    "port, TLS, password or the Sentinels' master name",
    "nexus_redis_provider.cli.pinging:ping",
    (JSON,),
    subject=Subject.ENDPOINT,
)
