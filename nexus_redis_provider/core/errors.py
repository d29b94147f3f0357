"""Every error this package raises on purpose.

A message says what happened, names the thing, gives the number and the next step. What code needs
to act on is an attribute. All of them survive pickling, since they cross from Spark executors to
the driver and from worker processes to their parents.
"""

from __future__ import annotations

from typing import Any


class NexusRedisError(Exception):
    """Base of all errors of this package."""

    def __reduce__(self) -> tuple[Any, ...]:
        # The default calls cls(*args), which fails for subclasses that build their own message.
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    cls: type[NexusRedisError], args: tuple[Any, ...], state: dict[str, Any]
) -> NexusRedisError:
    error = cls.__new__(cls, *args)
    error.__dict__.update(state)
    return error


class ConfigurationError(NexusRedisError, ValueError):
    """An option is missing, unknown or contradicts another; fix it and call again."""


class ServerError(NexusRedisError):
    """The server cannot be used as asked."""


class UnreachableError(ServerError):
    """Nothing usable answered at the endpoint within its timeouts; safe to retry later."""

    def __init__(
        self,
        endpoint: str,
        cause: object,
        advice: str = "Check host, port, TLS and that the server is running.",
    ) -> None:
        super().__init__(
            f"Redis at {endpoint} cannot be reached: {str(cause).rstrip('.')}. {advice}"
        )
        self.endpoint = endpoint


class PoolExhaustedError(UnreachableError):
    """All connections that a client may have are in use; nothing was sent. Safe to retry later."""

    def __init__(self, endpoint: str, cause: object) -> None:
        NexusRedisError.__init__(
            self,
            f"Redis at {endpoint} was not asked: {str(cause) or 'all connections are in use'}. "
            "Raise max_connections, or let callers wait: with pool_timeout (seconds), which a "
            "Cluster does not have, or before they call.",
        )
        self.endpoint = endpoint


class AccessDeniedError(ServerError):
    """The server refused the credentials or the command; retrying does not help."""

    def __init__(self, endpoint: str, cause: object) -> None:
        super().__init__(
            f"Redis at {endpoint} denied access: {str(cause).rstrip('.')}. "
            "Check user, password and the user's ACL (ACL WHOAMI, ACL GETUSER)."
        )
        self.endpoint = endpoint


class NoPasswordError(AccessDeniedError, ConfigurationError):
    """The password is no longer where it is to come from; the server was not asked."""

    def __init__(self, endpoint: str, cause: object) -> None:
        NexusRedisError.__init__(self, f"Redis at {endpoint} was not asked. {cause}")
        self.endpoint = endpoint


class RefusedError(ServerError):
    """The server does not carry out a command as it is: no memory is left, or no disk to save to.

    Attributes:
        reply: what it said.
    """

    def __init__(self, endpoint: str, reply: str) -> None:
        super().__init__(f"Redis at {endpoint} refused: {reply}")
        self.endpoint = endpoint
        self.reply = reply


class LockError(NexusRedisError):
    """Base of lock errors."""

    def __init__(self, message: str, name: str) -> None:
        super().__init__(message)
        self.name = name


class LockHeldError(LockError):
    """Others hold the lock, or wait for it before us; wait for it too, or give up.

    Attributes:
        owner: a holder; empty where only those in line have a claim.
        expires_in: seconds left of its lease.
        position: our place in the line, from 1; 0 if we stood in none.
    """

    def __init__(
        self, name: str, owner: str, expires_in: float, waited: float = 0.0, position: int = 0
    ) -> None:
        held = (
            f"is held by {owner!r}, whose lease ends in {expires_in:.1f} s unless renewed"
            if owner
            else "is claimed by others in line"
        )
        waited_for = f" Gave up after waiting {waited:.1f} s" if waited else ""
        place = f" at place {position} of the line" if waited and position else ""
        super().__init__(f"Lock {name!r} {held}.{waited_for}{place}{'.' if waited else ''}", name)
        self.owner = owner
        self.expires_in = expires_in
        self.position = position


class LockLostError(LockError):
    """The lock is no longer ours: stop the protected work, its fencing token is stale."""

    def __init__(self, name: str, owner: str, holder: str | None) -> None:
        now = f"it is now held by {holder!r}" if holder else "its lease ran out"
        super().__init__(f"Lock {name!r} is no longer held by {owner!r}: {now}.", name)
        self.owner = owner
        self.holder = holder


class NotReplicatedError(LockError):
    """Too few replicas confirmed the lock in time, so it was given back; try again."""

    def __init__(self, name: str, wanted: int, confirmed: int, timeout: float) -> None:
        super().__init__(
            f"Lock {name!r} was confirmed by {confirmed} of {wanted} replica(s) within "
            f"{timeout:.1f} s and given back. See INFO replication for what holds them up.",
            name,
        )
        self.wanted = wanted
        self.confirmed = confirmed


class EvictionError(LockError):
    """The server may evict the lock, so it was not taken: use another one, or change its policy."""

    def __init__(self, name: str, endpoint: str, maxmemory: int, policy: str) -> None:
        super().__init__(
            f"Lock {name!r} was not taken: Redis at {endpoint} may evict it when its memory is "
            f"full (maxmemory {maxmemory:,}, maxmemory-policy {policy}), and two would hold it at "
            "once then. Keep locks on a server of their own (in Airflow, that of the connection "
            "[nexus_redis] state_conn_id), or set maxmemory-policy noeviction there. Where "
            "two holders do no harm, allow_eviction=True takes it all the same.",
            name,
        )
        self.endpoint = endpoint
        self.maxmemory = maxmemory
        self.policy = policy


class GoldError(NexusRedisError):
    """Base of Gold dataset errors."""

    def __init__(self, message: str, dataset: str) -> None:
        super().__init__(message)
        self.dataset = dataset


class NotPublishedError(GoldError):
    """The dataset, or the version asked for, is not there to be read."""

    def __init__(self, dataset: str, version: str | None = None) -> None:
        what = f"has no version {version!r}" if version else "has no live version"
        super().__init__(
            f"Gold dataset {dataset!r} {what}: never published, expired, or removed.",
            dataset,
        )
        self.version = version


class RollbackError(GoldError):
    """A rollback was refused; what readers see is unchanged.

    Attributes:
        version: the one asked for, or None if that was the one before the live one.
    """

    def __init__(self, dataset: str, reason: str, version: str | None = None) -> None:
        super().__init__(f"Gold dataset {dataset!r} was not rolled back: {reason}.", dataset)
        self.version = version


class PublishError(GoldError):
    """A publish was refused or failed.

    The version that readers see is unchanged; of an upsert, some rows may be new, each whole.
    """


class SchemaError(PublishError):
    """A column is missing, or has a type that the layout or a key cannot hold."""

    def __init__(self, message: str, dataset: str, column: str) -> None:
        super().__init__(message, dataset)
        self.column = column


class NullKeyError(PublishError):
    """A row has null in a key column."""

    def __init__(self, dataset: str, columns: tuple[str, ...], rows: int) -> None:
        names = ", ".join(columns)
        super().__init__(
            f"Gold dataset {dataset!r}: {rows} row(s) have null in key column(s) {names}. "
            "Filter them out, or fill the null, before publishing.",
            dataset,
        )
        self.columns = columns
        self.rows = rows


class DuplicateKeyError(PublishError):
    """Two rows have the same key."""

    def __init__(self, dataset: str, key: str, rows: int) -> None:
        super().__init__(
            f"Gold dataset {dataset!r}: {rows} row(s) repeat a key, such as {key!r}. Aggregate "
            "to one row per key, or df.dropDuplicates([...]) on the key columns.",
            dataset,
        )
        self.key = key
        self.rows = rows


class TooFewRowsError(PublishError):
    """A version has fewer rows than its publisher asked for."""

    def __init__(self, dataset: str, rows: int, min_rows: int) -> None:
        super().__init__(
            f"Gold dataset {dataset!r}: {rows} row(s), fewer than min_rows={min_rows}. "
            "Look at the source, or publish with a smaller min_rows.",
            dataset,
        )
        self.rows = rows
        self.min_rows = min_rows


class ValueTooLargeError(PublishError):
    """A row is larger than its publisher allows."""

    def __init__(self, dataset: str, key: str, size: int, max_value_bytes: int) -> None:
        super().__init__(
            f"Gold dataset {dataset!r}: the value of {key!r} has {size:,} bytes, more than "
            f"max_value_bytes={max_value_bytes:,}. Leave a column out or shorten it, or publish "
            "with a larger max_value_bytes: each read of such a row holds the server up.",
            dataset,
        )
        self.key = key
        self.size = size
        self.max_value_bytes = max_value_bytes


class RowTtlError(PublishError):
    """The column that says when rows expire says of one what no lifetime is."""

    def __init__(self, dataset: str, column: str, key: str, value: int) -> None:
        super().__init__(
            f"Gold dataset {dataset!r}: column {column!r} of the row with key {key!r} is {value}, "
            "and counts the seconds from the publish until the row vanishes: 1 or more, fewer than "
            "10,000,000,000. Correct the value, or make it null for the ttl of the dataset.",
            dataset,
        )
        self.column = column
        self.key = key
        self.value = value


class NoRoomError(PublishError):
    """What is to be written does not fit into the server's memory.

    Attributes:
        needed: bytes still to come, as far as known.
        used, limit: bytes that count against `maxmemory`, and the latter.
    """

    def __init__(
        self, dataset: str, what: str, *, needed: int, used: int, limit: int, margin: float
    ) -> None:
        more = f" need {needed:,} bytes more" if needed else " have used up what was free"
        super().__init__(
            f"Gold dataset {dataset!r}: {what}{more}, and the server has room for "
            f"{max(0, int(limit * (1 - margin)) - used):,} (maxmemory {limit:,}, in use {used:,}, "
            f"{margin:.0%} kept free). Raise maxmemory, keep fewer versions (keep=0), choose a "
            "smaller layout, or say expected_rows if fewer will come.",
            dataset,
        )
        self.needed = needed
        self.used = used
        self.limit = limit


class WriteError(PublishError):
    """The server refused a write."""

    def __init__(self, dataset: str, reply: str, failed: int) -> None:
        super().__init__(
            f"Gold dataset {dataset!r}: the server refused {failed} write(s), first: "
            f"{reply.rstrip('.')}.",
            dataset,
        )
        self.reply = reply
        self.failed = failed


class StaleFenceError(PublishError):
    """A newer holder of the lock has published: this publisher must stop."""

    def __init__(self, dataset: str, fence: int | None, recorded: int) -> None:
        what = (
            f"it is published with fencing tokens, the last was {recorded}, and none was given"
            if fence is None
            else f"fencing token {fence} is older than {recorded}, the newest one that published"
        )
        super().__init__(
            f"Gold dataset {dataset!r}: {what}. Take the lock, and publish with its token.", dataset
        )
        self.fence = fence
        self.recorded = recorded


class SupersededError(PublishError):
    """A version begun later is already published, or the staging area was taken away."""


class FillError(NexusRedisError):
    """What was to fill a cache could not be written; keys written before it stay."""


class ReplicationError(NexusRedisError):
    """What was written is not known to be where it should be."""


class ReplicationLagError(ReplicationError):
    """Too few replicas have confirmed in time; what was written stays, and they may yet."""

    def __init__(self, wanted: int, what: str, waited: float) -> None:
        super().__init__(
            f"Not confirmed by {wanted} replica(s) after {waited:.1f} s: {what.rstrip('.')}. See "
            "`server info` for what holds them up."
        )
        self.wanted = wanted


class ReplicationLostError(ReplicationError):
    """A primary no longer has the data that was to be confirmed: write it again."""

    def __init__(self, endpoint: str, offset: int) -> None:
        super().__init__(
            f"What Redis at {endpoint} had written up to offset {offset:,} is on no primary any "
            "more: it restarted, a replica took over that had not received it, or all its slots "
            "went to other nodes. Write it again."
        )
        self.endpoint = endpoint
        self.offset = offset


class BackupError(NexusRedisError):
    """A backup could not be made, checked, or restored; what was there before is unchanged."""


class SaveUnderWayError(BackupError):
    """The server writes a snapshot, or rewrites its log, already; try again when it has."""

    def __init__(self, endpoint: str, what: str) -> None:
        super().__init__(
            f"Redis at {endpoint} cannot begin a snapshot: {what.rstrip('.')}. Try again when that "
            "is over; INFO persistence tells."
        )
        self.endpoint = endpoint


class SaveFailedError(BackupError):
    """The server could not write its snapshot or log to the end."""

    _then = (
        "Its log says why: a full disk, a folder that is gone or forbidden, or no memory to fork."
    )

    def __init__(self, endpoint: str, what: str) -> None:
        super().__init__(
            f"Redis at {endpoint} did not finish its snapshot: {what.rstrip('.')}. {self._then}"
        )
        self.endpoint = endpoint


class SaveTooLateError(SaveFailedError):
    """The server had not written its snapshot or log to the end when the time was over."""

    _then = "Give it a longer timeout, or try again when it has less to do."


class CorruptBackupError(BackupError):
    """A file of a backup is not what it was, or not what a server can read; use another backup."""

    def __init__(self, backup: str, what: str) -> None:
        super().__init__(f"Backup {backup!r} is not sound: {what.rstrip('.')}.")
        self.backup = backup


class RehearsalError(BackupError):
    """A backup was restored, and what came back is not what it should be."""

    def __init__(self, backup: str, what: str) -> None:
        super().__init__(f"Backup {backup!r} does not bring the data back: {what.rstrip('.')}.")
        self.backup = backup
