"""Locks by name: leases, owners, fencing tokens, a fair line; exclusive, shared, or N at once."""

from nexus_redis_provider.core.locks.asynchronous import AsyncLock
from nexus_redis_provider.core.locks.blocking import Lock

__all__ = ["AsyncLock", "Lock"]
