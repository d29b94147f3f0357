"""Random walks through the scripts of a lock, each step compared with a model written by its rules.

The clock is the server's: every script runs between two readings of TIME, and no step is taken near
the end of a lease, so the model knows at every step who is still counted. Where the machine was too
slow for that, the walk ends unjudged.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from nexus_redis_provider.core.durations import uptime
from nexus_redis_provider.core.endpoint import Endpoint
from nexus_redis_provider.core.keys import LockKeys
from nexus_redis_provider.core.locks.leases import Lease
from nexus_redis_provider.core.locks.protocol import (
    Claim,
    acquire,
    attend,
    break_lock,
    inspect,
    leave,
    release,
    renew,
    steal,
)
from nexus_redis_provider.core.locks.states import Holder, LockState
from nexus_redis_provider.core.scripts import Call, run, script
from tests.conftest import new_namespace

T = TypeVar("T")

NAME = "a"
SHORT, LONG = 0.012, 60.0
# No step is taken so near the end of a lease, ms.
MARGIN = 3
DEPLOYMENTS = {"ann": "", "bob": "", "cid": "prod", "dan": "prod", "eve": "test"}
KINDS: dict[str, dict[str, Any]] = {
    "exclusive": {},
    "shared": {"mode": "shared"},
    "two": {"permits": 2},
    "three": {"permits": 3},
}
PERMITS = {"exclusive": 1, "shared": math.inf, "two": 2, "three": 3}

owners = st.sampled_from(sorted(DEPLOYMENTS))
kinds = st.sampled_from(["exclusive", *KINDS])
channels = st.sampled_from(["-", "c"])
picks = st.integers(0, len(DEPLOYMENTS) - 1)
mostly = st.sampled_from([True, True, True, False])
# Mostly what stays, so that a walk does not wait all the time.
spans = st.sampled_from([LONG, LONG, SHORT])


def pick(found: Mapping[str, T], which: int) -> T:
    """One of them, whichever it is.

    Raises:
        NobodyThereError: there is none. No rule has a precondition: what there is depends on the
            clock, and hypothesis wants to see the same rules when it repeats a walk.
    """
    if not found:
        raise NobodyThereError
    return found[sorted(found)[which % len(found)]]


class NobodyThereError(Exception):
    """The step means nothing as things are."""


class TooSlowError(Exception):
    """A lease may or may not have ended while a script ran."""


@dataclass
class Span:
    """Until when something counts on the server, ms: the script's own reading is not known."""

    least: float = 0
    most: float = 0

    def lasts(self, begin: int, end: int) -> bool:
        if self.least > end:
            return True
        if self.most <= begin:
            return False
        raise TooSlowError

    def extend(self, begin: int, end: int, seconds: float) -> None:
        self.least = max(self.least, begin + 1000 * seconds)
        self.most = max(self.most, end + 1000 * seconds)


@dataclass
class Hold:
    """A holder, as the model knows it."""

    owner: str
    token: int
    permits: float
    entries: int = 1
    lease: Span = field(default_factory=Span)

    @property
    def deployment(self) -> str:
        return DEPLOYMENTS[self.owner]


@dataclass
class Place:
    """Who waits, or has waited and may come back."""

    owner: str
    ticket: int
    permits: float
    stay: float
    heard: Span = field(default_factory=Span)

    @property
    def deployment(self) -> str:
        return DEPLOYMENTS[self.owner]


class Model:
    """A lock by its rules: who fits in, whose turn it is, who blocks whom."""

    def __init__(self) -> None:
        self.holds: dict[str, Hold] = {}
        self.places: dict[str, Place] = {}
        self.begin = self.end = 0

    def spans(self) -> Iterator[Span]:
        yield from (hold.lease for hold in self.holds.values())
        yield from (place.heard for place in self.places.values())

    def blocking(self, deployment: str) -> list[Hold]:
        """A lease that runs stands in everybody's way; one that ran out, in its deployment's."""
        return [
            hold
            for hold in self.holds.values()
            if hold.lease.lasts(self.begin, self.end)
            or (deployment and hold.deployment == deployment)
        ]

    def living(self) -> list[Place]:
        return sorted(
            (place for place in self.places.values() if place.heard.lasts(self.begin, self.end)),
            key=lambda place: place.ticket,
        )

    def fits(self, deployment: str, permits: float, ahead: Iterable[Place]) -> bool:
        everybody = [hold.permits for hold in self.blocking(deployment)]
        everybody += [place.permits for place in ahead]
        return len(everybody) + 1 <= min([*everybody, permits])

    def turns(self) -> list[Place]:
        """From the first one on, as long as they fit in together."""
        found: list[Place] = []
        for place in self.living():
            if not self.fits(place.deployment, place.permits, found):
                break
            found.append(place)
        return found


def judged(step: Callable[..., None]) -> Callable[..., None]:
    """A step of which the model says what comes of it, as long as the clock lets it."""

    @functools.wraps(step)
    def judging(self: LockMachine, **arguments: Any) -> None:
        if self.is_judged:
            try:
                with contextlib.suppress(NobodyThereError):
                    step(self, **arguments)
            except TooSlowError:
                self.is_judged = False

    return judging


class LockMachine(RuleBasedStateMachine):
    """What hypothesis walks through."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__()
        self.client = client
        self.namespace = new_namespace()
        self.model = Model()
        self.newest = self.newest_ticket = 0
        self.seen: Holder | None = None
        self.is_judged = True

    def teardown(self) -> None:
        keys = list(self.client.scan_iter(f"{self.namespace}*", count=1000))
        immortal = [key for key in keys if self.client.ttl(key) < 0]
        if keys:
            self.client.unlink(*keys)
        assert not immortal

    def tell(self, call: Call[Any]) -> Any:
        """Run a script between two readings of the clock, when nothing is about to end."""
        self._let_end_what_ends_soon()
        pipeline = self.client.pipeline(transaction=False)
        pipeline.time()
        pipeline.eval(script(call.script).source, len(call.keys), *call.keys, *call.args)
        pipeline.time()
        begin, reply, end = pipeline.execute()
        self.model.begin, self.model.end = _ms(begin), _ms(end)
        return call.decode(reply)

    def _let_end_what_ends_soon(self) -> None:
        while True:
            now = _ms(self.client.time())
            soon = [
                span.most for span in self.model.spans() if span.least - MARGIN <= now < span.most
            ]
            if not soon:
                return
            time.sleep((max(soon) - now) / 1000)

    @rule(owner=owners, kind=kinds, lease=spans, stay=spans, channel=channels)
    @judged
    def ask_and_wait(self, owner: str, kind: str, lease: float, stay: float, channel: str) -> None:
        self._ask(owner, kind, lease, stay, channel)

    @rule(owner=owners, kind=kinds, lease=spans)
    @judged
    def only_ask(self, owner: str, kind: str, lease: float) -> None:
        self._ask(owner, kind, lease, None, "-")

    @rule(who=picks, lease=spans, stay=spans, channel=channels)
    @judged
    def ask_again(self, who: int, lease: float, stay: float, channel: str) -> None:
        place = pick(self.model.places, who)
        (kind,) = (kind for kind, permits in PERMITS.items() if permits == place.permits)
        self._ask(place.owner, kind, lease, stay, channel)

    def _ask(self, owner: str, kind: str, lease: float, stay: float | None, channel: str) -> None:
        claim = Claim(
            NAME,
            owner,
            deployment=DEPLOYMENTS[owner],
            namespace=self.namespace,
            **KINDS[kind],
        )
        attempt = self.tell(acquire(claim, lease, stay=stay, bell=channel))
        model = self.model
        others = {hold.owner for hold in model.blocking(DEPLOYMENTS[owner])} | {owner}
        expired = [other for other in model.holds if other not in others]
        ours, place = model.holds.get(owner), model.places.get(owner)
        if place is not None and stay is not None and ours is None:
            place.heard.extend(model.begin, model.end, place.stay)
        living = model.living()
        ahead = [one for one in living if place not in living or one.ticket < place.ticket]
        if ours is not None:
            ours.entries += 1
            assert attempt.acquired
            assert (attempt.token, attempt.entries) == (ours.token, ours.entries)
            assert attempt.expired == 0, "it makes no end of any"
        elif model.fits(DEPLOYMENTS[owner], PERMITS[kind], ahead):
            assert attempt.acquired
            assert attempt.token > self.newest
            assert (attempt.entries, attempt.expired) == (1, len(expired))
            for other in expired:
                del model.holds[other]
            self.newest = attempt.token
            ours = model.holds[owner] = Hold(owner, attempt.token, PERMITS[kind])
            model.places.pop(owner, None)
        else:
            assert not attempt.acquired
            if stay is not None:
                self._line_up(owner, attempt.ticket, PERMITS[kind], stay)
            in_line = [one.owner for one in model.living()]
            assert (attempt.position > 0) >= (owner in in_line)
            assert len(in_line) <= attempt.length <= len(model.places)
            assert {one.owner for one in attempt.holders} == set(model.holds)
            return
        ours.lease.extend(model.begin, model.end, lease)

    def _line_up(self, owner: str, ticket: int, permits: float, stay: float) -> None:
        before = self.model.places.get(owner)
        if before is None:
            assert ticket > self.newest_ticket
            self.newest_ticket = ticket
        else:
            assert ticket == before.ticket, "who was passed over keeps its ticket"
        place = self.model.places[owner] = Place(owner, ticket, permits, stay)
        place.heard.extend(self.model.begin, self.model.end, stay)

    @rule(who=picks, is_right=mostly)
    @judged
    def give_back(self, who: int, is_right: bool) -> None:
        hold = pick(self.model.holds, who)
        token = hold.token if is_right else hold.token - 1
        held_for = self.tell(release(NAME, hold.owner, token, namespace=self.namespace))
        assert (held_for is not None) == is_right
        if is_right:
            del self.model.holds[hold.owner]

    @rule(who=picks, lease=spans, is_right=mostly)
    @judged
    def prolong(self, who: int, lease: float, is_right: bool) -> None:
        hold = pick(self.model.holds, who)
        token = hold.token if is_right else hold.token - 1
        taken_by = self.tell(renew(NAME, hold.owner, token, lease, namespace=self.namespace))
        if is_right:
            assert taken_by is None, "its lease may have run out, but nobody took the lock"
            hold.lease.extend(self.model.begin, self.model.end, lease)
        else:
            assert taken_by in self.model.holds

    @rule(owner=owners)
    @judged
    def interfere(self, owner: str) -> None:
        """Who holds nothing changes nothing, whatever token it has."""
        if owner not in self.model.holds:
            for call in (release, functools.partial(renew, lease=LONG)):
                done = self.tell(call(NAME, owner, self.newest, namespace=self.namespace))
                assert done is None or done in {"", *self.model.holds}

    @rule(owner=owners)
    @judged
    def give_up(self, owner: str) -> None:
        stood = self.tell(leave(NAME, owner, namespace=self.namespace))
        assert stood == (self.model.places.pop(owner, None) is not None)

    @rule(who=st.sets(owners, min_size=1), channel=st.sampled_from(["-", "c"]))
    @judged
    def keep_waiting(self, who: set[str], channel: str) -> None:
        attendance = self.tell(attend(NAME, sorted(who), channel=channel, namespace=self.namespace))
        model = self.model
        waiting = who & set(model.places)
        for owner in waiting:
            place = model.places[owner]
            self._line_up(owner, place.ticket, place.permits, place.stay)
        assert attendance.strangers == who - waiting
        assert attendance.turns == {one.owner for one in model.turns()} & who
        living = model.living()
        assert attendance.head == (living[0].owner if living else "")
        by_ticket = sorted(waiting, key=lambda owner: model.places[owner].ticket)
        assert sorted(waiting, key=attendance.positions.__getitem__) == by_ticket
        assert all(attendance.positions[stranger] == 0 for stranger in attendance.strangers)
        assert {one.owner for one in attendance.holders} == set(model.holds)

    @rule(who=picks)
    @judged
    def judge(self, who: int) -> None:
        """What a thief knows when it goes and asks whether the holder lives."""
        hold = pick(self.model.holds, who)
        (self.seen,) = (one for one in self.look().holders if one.owner == hold.owner)

    @rule()
    @judged
    def rob(self) -> None:
        if self.seen is None:
            return
        stolen = self.tell(steal(self.seen, namespace=self.namespace))
        hold = self.model.holds.get(self.seen.owner)
        is_same = hold is not None and (hold.token, hold.entries) == (
            self.seen.token,
            self.seen.entries,
        )
        assert (stolen is not None) == is_same, "only who did not show itself since is robbed"
        if is_same:
            del self.model.holds[self.seen.owner]
        self.seen = None

    @rule(owner=st.one_of(owners, st.just("")))
    @judged
    def use_force(self, owner: str) -> None:
        if len(self.model.holds) < 2:
            return
        lost = self.tell(
            break_lock(NAME, by="me", why="test", owner=owner, namespace=self.namespace)
        )
        ended = [one for one in self.model.holds if owner in ("", one)]
        assert sorted(holder.owner for holder in lost) == sorted(ended)
        for one in ended:
            del self.model.holds[one]

    @rule()
    def let_time_pass(self) -> None:
        """All that is short runs out."""
        now = _ms(self.client.time())
        ends = [span.most for span in self.model.spans() if span.most < now + 1000]
        time.sleep(max([0, *(end - now for end in ends)]) / 1000)

    def look(self) -> LockState:
        return self.tell(inspect(NAME, namespace=self.namespace))

    @invariant()
    @judged
    def is_as_the_model_says(self) -> None:
        state, model = self.look(), self.model
        assert {holder.owner for holder in state.holders} == set(model.holds)
        for holder in state.holders:
            hold = model.holds[holder.owner]
            assert (holder.token, holder.entries) == (hold.token, hold.entries)
            assert (holder.permits or math.inf) == hold.permits
            assert holder.deployment == hold.deployment
            _assert_within(hold.lease, holder.expires_in, model)
        assert state.token >= self.newest
        waiters = [waiter.owner for waiter in state.waiters]
        assert waiters == sorted(waiters, key=lambda owner: model.places[owner].ticket)
        assert {place.owner for place in model.living()} <= set(waiters)
        for waiter in state.waiters:
            place = model.places[waiter.owner]
            assert waiter.ticket == place.ticket
            assert (waiter.permits or math.inf) == place.permits
            _assert_within(place.heard, waiter.heard_for, model)
        # Said without the model: those whose leases run all fit in with each other.
        running = [holder for holder in state.holders if holder.expires_in > 0]
        assert len(running) <= min((one.permits or math.inf for one in running), default=0)


def _assert_within(span: Span, seconds: float, model: Model) -> None:
    assert span.least - model.end <= 1000 * seconds + 0.5
    assert 1000 * seconds - 0.5 <= span.most - model.begin


def _ms(reading: tuple[int, int]) -> int:
    seconds, microseconds = reading
    return seconds * 1000 + microseconds // 1000


def test_a_lease_ends_at_its_holder_no_later_than_on_the_server(
    client: redis.Redis, namespace: str
) -> None:
    for turn in range(60):
        first, second = (
            Claim(NAME, f"{who} {turn}", namespace=namespace) for who in ("first", "second")
        )
        asked_at = uptime()
        lease = Lease(first, SHORT / 2, asked_at, run(client, acquire(first, SHORT / 2)))
        while not (taken := run(client, acquire(second, LONG))).acquired:
            pass
        assert not lease.held
        run(client, release(NAME, second.owner, taken.token, namespace=namespace))


def test_the_scripts_do_what_the_model_does(endpoint: Endpoint) -> None:
    with endpoint.client_for(LockKeys(NAME).lock) as client:
        run_state_machine_as_test(
            functools.partial(LockMachine, client),
            settings=settings(
                max_examples=160,
                stateful_step_count=40,
                deadline=None,
                suppress_health_check=list(HealthCheck),
            ),
        )
