"""When a job that store or Triton handed back is to blame for it, and how long it pauses."""

from dataclasses import replace
from typing import Any

import pytest

from tests.planner.builders import MOMENT, NOW, ago, begun, book, held
from tests.planner.deciding import decided
from videojob.api.reasons import Reason
from videojob.planner.book import Book
from videojob.planner.decisions import Wait
from videojob.planner.facts import Job, Moment, ReplicaKey


class TestHandBacks:
    """A job that store or Triton handed back: an outage for all counts for nobody."""

    def returned(self, reason: str = "StoreUnavailable", **fields: Any) -> Job:
        """A job that was on p/r0 for 25 s until 5 s ago."""
        return begun(reason=reason, message="No answer.", hand_backs=1, since=ago(5), version=2, **fields)

    def made(self, found: Job) -> Book:
        """A book that has seen it come back."""
        before = held(since=ago(30))
        made = book(before)
        made.put_job(found)
        return made

    @pytest.mark.parametrize(
        ("server", "uid", "at", "counts"),
        [
            pytest.param("p", "uid-b", 10, True, id="its store served another job meanwhile"),
            pytest.param("p", "uid-b", 31, False, id="before that"),
            pytest.param("p", "uid-a", 10, False, id="it served this very job"),
            pytest.param("q", "uid-b", 10, False, id="another pool's did"),
        ],
    )
    def test_when_a_store_that_failed_counts(self, server: str, uid: str, at: float, counts: bool) -> None:
        made = self.made(self.returned())
        made.service.put(server, uid, ago(at))
        (decision,) = decided(made)
        assert isinstance(decision, Wait)
        assert (decision.reason, decision.counts) == (Reason.BACKING_OFF, counts)

    def test_a_triton_counts_only_where_it_served_another_job_itself(self) -> None:
        for server, counts in (("p", False), (ReplicaKey("p", "r0"), True)):
            made = self.made(self.returned("TritonUnavailable"))
            made.service.put(server, "uid-b", ago(10))
            (decision,) = decided(made)
            assert isinstance(decision, Wait)
            assert decision.counts is counts

    def test_a_full_disk_never_counts(self) -> None:
        """It may have room for the shorter video of another job."""
        made = self.made(self.returned("DiskUnavailable"))
        for server in ("p", ReplicaKey("p", "r0")):
            made.service.put(server, "uid-b", ago(10))
        (decision,) = decided(made)
        assert isinstance(decision, Wait)
        assert (decision.reason, decision.counts) == (Reason.BACKING_OFF, False)

    @pytest.mark.parametrize("second", ["r0", "r1"])
    @pytest.mark.parametrize("served", [True, False])
    def test_a_replica_of_one_slot_can_serve_another_only_after_the_job_has_left(
        self, second: str, served: bool
    ) -> None:
        """So what it did meanwhile is known when the job comes back the next time, from whichever replica."""
        made = self.made(self.returned("TritonUnavailable"))
        (first,) = decided(made)
        assert isinstance(first, Wait) and not first.counts
        if served:
            made.service.put(ReplicaKey("p", "r0"), "uid-b", NOW)
        made.put_job(held(replica=second, attempts=2, hand_backs=1, since=ago(-20), version=3))
        made.put_job(replace(self.returned("TritonUnavailable"), hand_backs=2, since=ago(-40), version=4))
        (decision,) = decided(made, Moment(ago(-44), MOMENT.mono + 44))
        assert isinstance(decision, Wait)
        assert (decision.reason, decision.counts) == (Reason.BACKING_OFF, served)

    def test_a_hand_back_counts_once(self) -> None:
        made = self.made(self.returned("TritonUnavailable"))
        made.service.put(ReplicaKey("p", "r0"), "uid-b", ago(10))
        (first,) = decided(made)
        assert isinstance(first, Wait) and first.counts
        made.put_job(held(attempts=2, hand_backs=1, failures=1, since=ago(-20), version=3))
        again = replace(self.returned("TritonUnavailable"), hand_backs=2, failures=1, since=ago(-40), version=4)
        made.put_job(again)
        (decision,) = decided(made, Moment(ago(-44), MOMENT.mono + 44))
        assert isinstance(decision, Wait) and not decision.counts

    def test_progress_begins_anew(self) -> None:
        made = self.made(self.returned("TritonUnavailable"))
        made.service.put(ReplicaKey("p", "r0"), "uid-b", NOW)
        made.put_job(held(attempts=2, chunks_done=3, since=ago(-20), version=3))
        made.put_job(replace(self.returned("TritonUnavailable"), since=ago(-40), version=4))
        (decision,) = decided(made, Moment(ago(-44), MOMENT.mono + 44))
        assert isinstance(decision, Wait) and not decision.counts

    @pytest.mark.parametrize(("hand_backs", "seconds"), [(1, 10), (3, 40), (7, 600), (50, 600)])
    def test_pauses_grow_with_the_hand_backs(self, hand_backs: int, seconds: float) -> None:
        found = begun(reason="StoreUnavailable", hand_backs=hand_backs, since=ago(0))
        made = book(found)
        assert made.agenda.pending.entries["uid-a"].again == ago(-seconds)
