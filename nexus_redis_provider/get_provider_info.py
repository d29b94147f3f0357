"""What this package offers to Airflow. Read before Airflow is configured, so it imports nothing."""

from __future__ import annotations

from typing import Any


def get_provider_info() -> dict[str, Any]:
    """The provider's description, as Airflow's `provider_info.schema.json` wants it."""
    return {
        "package-name": "nexus-redis-provider",
        "name": "Nexus Redis",
        "description": (
            "Redis as the serving edge of an Airflow + Spark platform: "
            "DAG locks, atomic Gold datasets, warm-cache gates."
        ),
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://redis.io/docs/latest/",
                "tags": ["software"],
            }
        ],
        "hooks": _modules("hooks.redis"),
        "operators": _modules(
            *("operators.backup", "operators.cache_invalidation"),
            *("operators.dag_lock", "operators.gold_publish", "operators.replication"),
        ),
        "extra-links": ["nexus_redis_provider.operators.locking.LockHolderLink"],
        "task-decorators": [
            {
                "name": "locked",
                "class-name": "nexus_redis_provider.decorators.locked.locked_task",
            }
        ],
        "sensors": _modules("sensors.cache_warm"),
        "triggers": _modules(
            *("triggers.dag_lock", "triggers.cache_warm"),
            *("triggers.gold_published", "triggers.replication"),
        ),
        "asset-uris": [
            {
                "schemes": ["nexus-redis"],
                "handler": "nexus_redis_provider.assets.gold.sanitize_uri",
                "factory": "nexus_redis_provider.assets.gold.gold_asset",
            }
        ],
        "cli": ["nexus_redis_provider.cli.definition.get_commands"],
        "connection-types": [
            {
                "connection-type": "nexus_redis",
                "hook-class-name": "nexus_redis_provider.hooks.redis.NexusRedisHook",
                "hook-name": "Nexus Redis",
                "ui-field-behaviour": {
                    "hidden-fields": ["schema", "extra"],
                    "relabeling": {"login": "ACL user"},
                    "placeholders": {
                        "host": "localhost, or /run/redis.sock",
                        "port": "6379, of Sentinels 26379",
                        "login": "default",
                    },
                },
                "conn-fields": _connection_fields(),
            }
        ],
        "config": {
            "nexus_redis": {
                "description": "Settings of the Nexus Redis provider.",
                "options": {
                    "deployment_id": {
                        "description": (
                            "Name of this Airflow deployment: the first part of every lock's "
                            "owner, and where a contender can ask whether the owner lives. Without "
                            "it, the Airflow variable nexus_redis_deployment_id says it, which is "
                            "made when the first lock is taken. Set it where a database was "
                            "copied from another deployment that uses the same Redis. Change it "
                            "only while no lock is held."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "analytics-production",
                        "default": "",
                    },
                    "state_conn_id": {
                        "description": (
                            "Connection of the Redis for locks, where no task names another one. "
                            "All else is by default on nexus_redis_default: set this where that is "
                            "a cache, which may evict keys."
                        ),
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "nexus_redis_state",
                        "default": "nexus_redis_default",
                    },
                },
            }
        },
    }


_INTEGRATION = "Nexus Redis"


def _modules(*names: str) -> list[dict[str, Any]]:
    modules = [f"nexus_redis_provider.{name}" for name in names]
    return [{"integration-name": _INTEGRATION, "python-modules": modules}]


def _connection_fields() -> dict[str, Any]:
    return {
        "topology": _field(
            "Topology",
            "string",
            "How the servers stand together; of Sentinels, host and port are of one of them.",
            default="standalone",
            enum=["standalone", "sentinel", "cluster"],
        ),
        "nodes": _field(
            "Further nodes",
            "string",
            "host:port,host:port: other Sentinels, or nodes of the Cluster, where one is down.",
        ),
        "master": _field("Sentinel master", "string", "The primary's name with the Sentinels."),
        "sentinel_username": _field("Sentinel user", "string", "Where Sentinels ask for it."),
        "sentinel_password": _field(
            "Sentinel password", "string", "Where Sentinels ask for it.", format="password"
        ),
        "sentinel_password_env": _reference("Sentinel password's variable", variable=True),
        "sentinel_password_file": _reference("Sentinel password's file", variable=False),
        "db": _field(
            "Database", "integer", "Its number; a Cluster has only 0.", default=0, minimum=0
        ),
        "password_env": _reference("Password's variable", variable=True),
        "password_file": _reference("Password's file", variable=False),
        "credential_provider": _field(
            "Credential provider",
            "string",
            "package.module.Class on the workers that tells user and password, in place of those.",
        ),
        **_tls_fields(),
        **_client_fields(),
    }


def _tls_fields() -> dict[str, Any]:
    path = "Path of a PEM file on the workers."
    return {
        "ssl": _field(
            "Use TLS", "boolean", "Also with Sentinels and between nodes.", default=False
        ),
        "ssl_cert_reqs": _field(
            "Verify the server's certificate",
            "string",
            "With none, anybody in between may pass for the server.",
            default="required",
            enum=["required", "optional", "none"],
        ),
        "ssl_check_hostname": _field(
            "Check the host's name",
            "boolean",
            "Whether the certificate must be for this host.",
            default=True,
        ),
        "ssl_ca_certs": _field("CA certificates", "string", f"{path} Empty: the system's."),
        "ssl_certfile": _field("Client certificate", "string", f"{path} Where the server asks."),
        "ssl_keyfile": _field("Client key", "string", path),
    }


def _client_fields() -> dict[str, Any]:
    seconds = "Seconds per attempt."
    return {
        "connect_timeout": _field("Connect timeout", "number", seconds, default=3, minimum=0.1),
        "read_timeout": _field("Read timeout", "number", seconds, default=5, minimum=0.1),
        "retries": _field(
            "Retries",
            "integer",
            "Further attempts after a lost connection or a timeout.",
            default=2,
            minimum=0,
        ),
        "max_connections": _field(
            "Connections",
            "integer",
            "At most, of a client's pool; of a Cluster, to each node.",
            default=100,
            minimum=1,
        ),
        "pool_timeout": _field(
            "Pool timeout",
            "number",
            "Seconds to wait while all connections are in use; 0 is an error at once.",
            default=0,
            minimum=0,
        ),
        "health_check_interval": _field(
            "Health check",
            "number",
            "Seconds of idleness after which a connection is tried before it is used; 0: never.",
            default=30,
            minimum=0,
        ),
        "read_from": _field(
            "Read from",
            "string",
            "Where reads go that may be stale; with Sentinels or a Cluster.",
            default="primary",
            enum=["primary", "replica"],
        ),
        "protocol": _field(
            "RESP version",
            "integer",
            "2 for a proxy that does not speak RESP3.",
            default=3,
            enum=[2, 3],
        ),
        "client_name": _field("Client name", "string", "Shown by CLIENT LIST."),
    }


def _reference(label: str, *, variable: bool) -> dict[str, Any]:
    what = "Environment variable" if variable else "File"
    return _field(label, "string", f"{what} on the workers that holds the password.")


def _field(label: str, kind: str, description: str, **schema: Any) -> dict[str, Any]:
    return {
        "label": label,
        "description": description,
        "schema": {"type": [kind, "null"], **schema},
    }
