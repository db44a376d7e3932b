"""Who is alive, as far as the operator can know: silence is not death."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.api.replica import ReplicaReport
from videojob.planner.facts import Health, Replica, ReplicaKey
from videojob.planner.liveness import MASS_LEAST, Beat, Contact, Liveness

LEASE = 15.0
KEY = ReplicaKey("p", "r0")


def beat(renewed: str = "1", seen: float = 0.0, slots: int = 1) -> Beat:
    """A Lease as a watch shows it."""
    return Beat(Replica(ReplicaReport(slots=slots)), f"p.{renewed}", renewed, LEASE, seen)


def liveness(keys: Iterable[ReplicaKey] = (KEY,), answers: Iterable[float] = ()) -> Liveness:
    """Replicas that were seen at 0, and an API server that has answered at these moments."""
    found = Liveness(Contact(gap_seconds=6.0))
    for key in keys:
        found.put(key, beat())
    for at in answers:
        found.contact.answered(at)
    return found


def every(seconds: float, *, start: float = 0.0, end: float) -> list[float]:
    """Moments at that distance."""
    return [start + seconds * step for step in range(int((end - start) / seconds) + 1)]


def test_a_replica_that_renews_is_live() -> None:
    found = liveness(answers=every(2, end=100))
    for step in range(20):
        found.put(KEY, beat(str(step), seen=5.0 * step))
        assert found.health(KEY, 5.0 * step + 14) is Health.LIVE


@pytest.mark.parametrize(
    ("answers", "listed", "at", "expected"),
    [
        pytest.param(every(2, end=14), None, 14.9, Health.LIVE, id="not silent for a Lease's length"),
        pytest.param(every(2, end=40), None, 40.0, Health.SILENT, id="silent, but no listing has confirmed it"),
        pytest.param(every(2, end=40), 14.0, 40.0, Health.SILENT, id="the listing was sent before the expiry"),
        pytest.param(every(2, end=40), 16.0, 40.0, Health.LOST, id="silent, and a later listing shows the same"),
        pytest.param([], 16.0, 40.0, Health.SILENT, id="the API server has not answered"),
        pytest.param(every(2, start=26, end=40), 27.0, 40.0, Health.SILENT, id="it answers again for 14 s"),
        pytest.param(every(2, start=24, end=40), 27.0, 40.0, Health.LOST, id="it answers again for 16 s"),
        pytest.param([*every(2, end=20), *every(2, start=30, end=40)], 32.0, 40.0, Health.SILENT, id="a gap of 10 s"),
        pytest.param(every(2, end=30), 16.0, 40.0, Health.SILENT, id="no answer for 10 s, until now"),
    ],
)
def test_when_a_silent_replica_is_lost(answers: list[float], listed: float | None, at: float, expected: Health) -> None:
    found = liveness(answers=answers)
    if listed is not None:
        found.listed(listed, {KEY: "1"})
    found.declare(at)
    assert found.health(KEY, at) is expected


def test_a_listing_that_shows_a_newer_renewal_confirms_nothing() -> None:
    """One of several API servers is half open: its watch stands still while the leader renews through another one."""
    found = liveness(answers=every(2, end=60))
    assert found.unconfirmed(20.0)
    found.put(KEY, beat("2", seen=21.0))
    found.listed(20.0, {KEY: "2"})
    found.declare(30.0)
    assert found.health(KEY, 30.0) is Health.LIVE


def test_a_refusal_breaks_the_contact() -> None:
    found = liveness(answers=every(2, end=40))
    found.listed(16.0, {KEY: "1"})
    found.contact.failed()
    found.contact.answered(41.0)
    found.declare(42.0)
    assert found.health(KEY, 42.0) is Health.SILENT


def test_a_lost_replica_that_renews_is_live_again() -> None:
    found = liveness(answers=every(2, end=60))
    found.listed(16.0, {KEY: "1"})
    found.declare(40.0)
    assert found.health(KEY, 40.0) is Health.LOST
    assert found.put(KEY, beat("2", seen=41.0)), "a plan comes out differently"
    assert found.health(KEY, 41.0) is Health.LIVE


class TestWithoutALease:
    """A replica that a job names and that has no Lease."""

    def test_it_is_silent_first_and_lost_once_a_listing_has_shown_that(self) -> None:
        found = liveness(keys=(), answers=every(2, end=60))
        found.expect(KEY, 10.0)
        found.declare(24.0)
        assert found.health(KEY, 24.0) is Health.SILENT
        found.listed(26.0, {})
        found.declare(26.0)
        assert found.health(KEY, 26.0) is Health.LOST

    def test_a_lease_that_vanished_is_not_death_at_once(self) -> None:
        found = liveness(answers=every(2, end=60))
        found.drop(KEY, 5.0, left=False)
        found.declare(19.0)
        assert found.health(KEY, 19.0) is Health.SILENT

    def test_a_runner_that_has_left_is_lost_at_once(self) -> None:
        found = liveness()
        found.drop(KEY, 1.0, left=True)
        assert found.health(KEY, 1.0) is Health.LOST

    def test_one_that_comes_back_is_live(self) -> None:
        found = liveness()
        found.drop(KEY, 1.0, left=True)
        found.put(KEY, beat("9", seen=2.0))
        assert found.health(KEY, 2.0) is Health.LIVE


class TestDisruption:
    """Many that fall silent together are likelier cut off than dead."""

    KEYS = tuple(ReplicaKey("p", f"r{number:03}") for number in range(100))

    def lost(self, found: Liveness, at: float) -> int:
        """How many are lost at that moment."""
        found.declare(at)
        return sum(found.health(key, at) is Health.LOST for key in self.KEYS)

    def silent(self, count: int, answers: float = 1000.0) -> Liveness:
        """A pool of which so many are silent from 15 s on."""
        found = liveness(self.KEYS, every(2, end=answers))
        for key in self.KEYS[count:]:
            found.put(key, beat("2", seen=10_000.0))
        found.listed(16.0, {key: "1" if key in self.KEYS[:count] else "2" for key in self.KEYS})
        return found

    def test_up_to_55_percent_are_lost_together(self) -> None:
        assert self.lost(self.silent(55), 40.0) == 55

    def test_more_are_lost_at_a_bounded_rate(self) -> None:
        found = self.silent(100)
        counts = [self.lost(found, at) for at in every(1, start=40, end=85)]
        assert counts[0] == 5
        assert max(after - before for before, after in zip(counts, counts[15:], strict=False)) == 5
        assert counts[-1] == 20, "four Leases' lengths"

    def test_all_are_lost_in_the_end(self) -> None:
        found = self.silent(100)
        assert [self.lost(found, at) for at in every(15.0, start=40, end=400)][-1] == 100

    def test_a_small_pool_has_no_disruption(self) -> None:
        keys = self.KEYS[: MASS_LEAST - 1]
        found = liveness(keys, every(2, end=60))
        found.listed(16.0, dict.fromkeys(keys, "1"))
        found.declare(40.0)
        assert all(found.health(key, 40.0) is Health.LOST for key in keys)


@given(
    outage=st.floats(0, 300),
    back=st.floats(0, 5),
    phase=st.lists(st.floats(0, 5), min_size=1, max_size=12),
    watch=st.floats(0, 150),
)
def test_no_outage_of_the_api_server_makes_a_living_replica_lost(
    outage: float, back: float, phase: list[float], watch: float
) -> None:
    """However long it is away, and however late the watch comes back: each renews within 5 s of its return."""
    keys = [ReplicaKey("p", f"r{number}") for number in range(len(phase))]
    found = liveness(keys)
    end = outage + back
    first = {key: end + later for key, later in zip(keys, phase, strict=True)}

    def renewed(key: ReplicaKey, at: float) -> str:
        return str(2 + int((at - first[key]) / 5)) if at >= first[key] else "1"

    for at in every(2, start=end, end=end + 200):
        found.contact.answered(at)
        if found.unconfirmed(at) or at >= end + watch:
            shown = {key: renewed(key, at) for key in keys}
            for key in keys:
                found.put(key, beat(shown[key], seen=at))
            found.listed(at, shown)
        found.declare(at)
        assert not any(found.health(key, at) is Health.LOST for key in keys)
