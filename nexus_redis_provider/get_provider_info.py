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
            *("operators.dag_lock", "operators.gold_publish"),
        ),
        "extra-links": ["nexus_redis_provider.operators.locking.LockHolderLink"],
        "task-decorators": [
            {
                "name": "locked",
                "class-name": "nexus_redis_provider.decorators.locked.locked_task",
            }
        ],
        "sensors": _modules("sensors.cache_warm"),
        "triggers": _modules("triggers.dag_lock", "triggers.cache_warm", "triggers.gold_published"),
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
                        "host": "localhost",
                        "port": "6379",
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
                    }
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
        "master": _field("Sentinel master", "string", "Its name with the Sentinels."),
        "sentinel_username": _field("Sentinel user", "string", "Where Sentinels ask for it."),
        "sentinel_password": _field(
            "Sentinel password", "string", "Where Sentinels ask for it.", format="password"
        ),
        "db": _field("Database", "integer", default=0, minimum=0),
        "ssl": _field("Use TLS", "boolean", default=False),
        "ssl_cert_reqs": _field(
            "Verify the server's certificate",
            "string",
            default="required",
            enum=["required", "optional", "none"],
        ),
        "ssl_check_hostname": _field("Check the host's name", "boolean", default=True),
        "ssl_ca_certs": _field("CA certificates", "string", "Path of a PEM file on the workers."),
        "ssl_certfile": _field(
            "Client certificate", "string", "Path of a PEM file on the workers."
        ),
        "ssl_keyfile": _field("Client key", "string", "Path of a PEM file on the workers."),
        "connect_timeout": _field(
            "Connect timeout", "number", "Seconds per attempt.", default=3, minimum=0.1
        ),
        "read_timeout": _field(
            "Read timeout", "number", "Seconds per attempt.", default=5, minimum=0.1
        ),
        "retries": _field(
            "Retries",
            "integer",
            "Further attempts after a lost connection or a timeout.",
            default=2,
            minimum=0,
        ),
        "max_connections": _field(
            "Connections", "integer", "At most, per client.", default=100, minimum=1
        ),
        "client_name": _field("Client name", "string", "Shown by CLIENT LIST."),
    }


def _field(label: str, kind: str, description: str | None = None, **schema: Any) -> dict[str, Any]:
    field: dict[str, Any] = {"label": label, "schema": {"type": [kind, "null"], **schema}}
    return field | ({"description": description} if description else {})
