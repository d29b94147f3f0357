"""Which slots each node of a Cluster serves, as it says of itself.

Snapshots of several nodes are of several moments. A slot that changes hands in between would be in
two of them, or in none; so whoever makes them asks before and after.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS

from nexus_redis_provider.core.clusters import Primary
from nexus_redis_provider.core.endpoint import translated_errors
from nexus_redis_provider.core.errors import BackupError

# The first and the last one.
SlotRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Share:
    """What one node serves.

    Attributes:
        node_id: of the node.
        epoch: its config epoch, which rises when it is given a slot, or takes over from another.
        slots: in ranges; none of a replica.
    """

    node_id: str
    epoch: int
    slots: tuple[SlotRange, ...]


def shares_of(primaries: Sequence[Primary]) -> list[Share]:
    """What each serves now; all slots are served, each by one, and none is on its way.

    Raises:
        BackupError: it is not so.
        UnreachableError, AccessDeniedError: a node cannot be asked.

    Redis: CLUSTER NODES.
    """
    shares = [_share(primary) for primary in primaries]
    if fault := fault_of(chain.from_iterable(share.slots for share in shares)):
        raise BackupError(
            f"No backup of this Cluster can be made: {fault}. Try again when all nodes are up."
        )
    for primary, share in zip(primaries, shares, strict=True):
        if not share.slots:
            raise BackupError(
                f"{primary.address} has just lost its last slots to other nodes. Try again."
            )
    return shares


def refuse_changes(
    primaries: Sequence[Primary], before: Sequence[Share], after: Sequence[Share]
) -> None:
    """Refuse snapshots between which a slot may have changed hands.

    Raises:
        BackupError: names the node.
    """
    for primary, was, now in zip(primaries, before, after, strict=True):
        if was != now:
            raise BackupError(
                f"Slots moved, or a replica took over, while the Cluster was backed up: "
                f"{primary.address} had {slots_in_words(was.slots)} in epoch {was.epoch}, and has "
                f"{slots_in_words(now.slots)} in epoch {now.epoch}. Try again when that is over."
            )


def fault_of(ranges: Iterable[SlotRange]) -> str | None:
    """Why not every slot is in one range and no other; None where it is so."""
    counts = Counter(slot for first, last in ranges for slot in range(first, last + 1))
    for fault, slots in (
        ("no node has slots", [n for n in range(REDIS_CLUSTER_HASH_SLOTS) if not counts[n]]),
        ("more than one node has slots", sorted(n for n, count in counts.items() if count > 1)),
    ):
        if slots:
            return f"{fault} {slots_in_words(_ranges(slots))}"
    return None


def slots_in_words(slots: Iterable[SlotRange]) -> str:
    """Such as `0-99 7`, as the servers themselves write it; `none`."""
    ranges = (str(first) if first == last else f"{first}-{last}" for first, last in slots)
    return " ".join(ranges) or "none"


def nodes_file(slots: Sequence[SlotRange]) -> str:
    """The file of nodes by which a server that starts with it serves slots, and knows nobody."""
    # No two nodes begin with the same slot; with the same epoch they would quarrel.
    epoch = slots[0][0] + 1
    node_id, served = secrets.token_hex(20), slots_in_words(slots)
    return (
        f"{node_id} :0@0 myself,master - 0 0 {epoch} connected {served}\n"
        f"vars currentEpoch {epoch} lastVoteEpoch 0\n"
    )


def _share(primary: Primary) -> Share:
    with translated_errors(primary.client):
        nodes: Any = primary.client.execute_command("CLUSTER NODES")
    mine = next(node for node in nodes.values() if "myself" in node["flags"])
    if moving := mine["migrations"]:
        slots = ", ".join(one["slot"] for one in moving)
        raise BackupError(
            f"Slots of {primary.address} are on their way between nodes: {slots}. Try again when "
            "that is over (CLUSTER NODES tells)."
        )
    # Of a single slot, there is one number.
    ranges = tuple((int(found[0]), int(found[-1])) for found in mine["slots"])
    return Share(mine["node_id"], int(mine["epoch"]), ranges)


def _ranges(slots: Iterable[int]) -> list[SlotRange]:
    found = list[SlotRange]()
    for slot in slots:
        if found and found[-1][1] == slot - 1:
            found[-1] = (found[-1][0], slot)
        else:
            found.append((slot, slot))
    return found
