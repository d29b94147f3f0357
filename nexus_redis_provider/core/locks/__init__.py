"""Locks by name: leases, owners, fencing tokens, a fair line; exclusive, shared, or N at once."""

from nexus_redis_provider.core.locks.holding import AsyncLock, Lock

__all__ = ["AsyncLock", "Lock"]
