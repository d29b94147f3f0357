"""
Redis as the serving edge of an Airflow + Spark platform.

Importing this package imports nothing else: Airflow reads it before its configuration is
ready, and an executor of Spark should load only what it uses.
"""

from __future__ import annotations

TYPE_CHECKING = False

__version__: str

if not TYPE_CHECKING:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            from importlib.metadata import version

            return version("nexus_redis_provider")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
