"""Jobs that need no replica, and jobs that one holds: one case a line."""

from dataclasses import replace
from typing import Any

import pytest

from tests.planner.builders import MOMENT, NOW, ago, beat, begun, book, held, job, key, replica
from tests.planner.deciding import brief, decided
from videojob.api import FINALIZER
from videojob.api.reasons import Reason
from videojob.api.replica import HeldJob
from videojob.api.videojob import Phase
from videojob.planner.book import Book
from videojob.planner.decisions import Cause, Reclaim
from videojob.planner.facts import Job, Moment
from videojob.planner.rules import Rules

FINISHED: dict[str, Any] = {"phase": Phase.SUCCEEDED, "completion_time": ago(100), "finalizers": (FINALIZER,)}
OURS: dict[str, Any] = {"finalizers": (FINALIZER,)}


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(job(deleted=True), [], id="a deleted job without our finalizer is none of our business"),
        pytest.param(job(deleted=True, **OURS), [("Purge", False)], id="a deleted job loses its files"),
        pytest.param(
            job(deleted=True, suspend=True, phase=Phase.SUSPENDED, **OURS),
            [("Purge", False)],
            id="a suspended one, too",
        ),
        pytest.param(job(deleted=True, **FINISHED), [("Purge", True)], id="a succeeded job keeps its video"),
        pytest.param(
            job(deleted=True, retain_output=False, **FINISHED),
            [("Purge", False)],
            id="a succeeded job loses its video where its deletionPolicy is Delete",
        ),
        pytest.param(
            job(deleted=True, **FINISHED | {"phase": Phase.CANCELLED}),
            [("Purge", False)],
            id="a cancelled job that is deleted leaves nothing",
        ),
        pytest.param(job(**FINISHED), [], id="a finished job without a time to live stays"),
        pytest.param(
            job(ttl_seconds_after_finished=101, **FINISHED), [], id="a finished job stays for its time to live"
        ),
        pytest.param(job(ttl_seconds_after_finished=100, **FINISHED), [("Expire",)], id="and goes after it"),
        pytest.param(
            job(generation=3, observed_generation=2, **FINISHED), [("Observe",)], id="a finished job that was changed"
        ),
        pytest.param(
            job(suspend=True, phase=Phase.SUSPENDED, generation=2, observed_generation=1),
            [("Observe",)],
            id="a suspended job that was changed",
        ),
        pytest.param(
            job(store_uri="file:///s", **FINISHED | {"phase": Phase.FAILED, "finalizers": ()}),
            [("Adopt",)],
            id="a failed job with files whose finalizer was taken",
        ),
        pytest.param(
            job(cut_off_until=ago(1), **FINISHED), [("Sweep",)], id="the runner that was lost adds nothing any more"
        ),
        pytest.param(job(cut_off_until=ago(-1), **FINISHED), [], id="it may still add something"),
        pytest.param(job(cancel=True), [("Cancel",)], id="a waiting job is cancelled at once"),
        pytest.param(job(cancel=True, suspend=True), [("Cancel",)], id="cancel beats suspend"),
        pytest.param(job(suspend=True), [("Suspend",)], id="a waiting job is suspended at once"),
        pytest.param(job(suspend=True, phase=Phase.SUSPENDED), [], id="a suspended job stays so"),
        pytest.param(job(phase=Phase.SUSPENDED), [("Resume",)], id="a job that is not to be suspended any more waits"),
        pytest.param(
            begun(active_deadline_seconds=30),
            [
                (
                    "Fail",
                    Reason.DEADLINE_EXCEEDED,
                    "The job was active for longer than activeDeadlineSeconds (30 s).",
                )
            ],
            id="a job that waits for its next replica beyond its deadline fails",
        ),
        pytest.param(
            begun(failures=3, backoff_limit=2, reason="ChunkFailed", message="Chunk 1 broke."),
            [
                (
                    "Fail",
                    Reason.BACKOFF_LIMIT_EXCEEDED,
                    "3 attempts failed, backoffLimit is 2; the last one: ChunkFailed: Chunk 1 broke.",
                )
            ],
            id="a job that failed too often fails for good, with the last failure",
        ),
        pytest.param(
            begun(attempts=70, losses=50, reason="ReplicaLost"),
            [
                (
                    "Fail",
                    Reason.REPLICA_LOSS_LIMIT_EXCEEDED,
                    "50 replicas were lost while they held the job (the limit is 50): it may be what breaks them.",
                )
            ],
            id="a job that loses replica after replica is given up",
        ),
    ],
)
def test_a_job_that_nobody_holds(found: Job, expected: list[tuple[object, ...]]) -> None:
    assert [brief(decision) for decision in decided(book(found))] == expected


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param(held(), [], id="a job that runs is left alone"),
        pytest.param(held(deleted=True), [("Release", Reason.DELETED)], id="a deleted job is taken back first"),
        pytest.param(held(cancel=True), [("Release", Reason.CANCELLED)], id="so is one that is cancelled"),
        pytest.param(held(suspend=True), [("Release", Reason.SUSPENDED)], id="and one that is suspended"),
        pytest.param(held(cancel=True, release="Cancelled"), [], id="a replica is asked once"),
        pytest.param(
            held(active_deadline_seconds=30), [("Release", Reason.DEADLINE_EXCEEDED)], id="a job that runs for too long"
        ),
        pytest.param(held(active_deadline_seconds=31), [], id="a job may run until its deadline"),
        pytest.param(held(finalizers=()), [("Adopt",)], id="a job that runs and whose finalizer was taken"),
        pytest.param(held(generation=4, observed_generation=1), [], id="the runner observes what was changed"),
    ],
)
def test_a_job_that_a_replica_holds(found: Job, expected: list[tuple[object, ...]]) -> None:
    assert [brief(decision) for decision in decided(book(found))] == expected


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        pytest.param("None", [], id="an open queue"),
        pytest.param("Hold", [], id="Hold lets running jobs go on"),
        pytest.param("HoldAndDrain", [("Release", Reason.QUEUE_STOPPED)], id="HoldAndDrain takes them back"),
    ],
)
def test_stop_policies(stop: str, expected: list[tuple[object, ...]]) -> None:
    assert [brief(decision) for decision in decided(book(held(), stop=stop))] == expected


class TestReplicaWithoutAHeartbeat:
    """Silence is not death."""

    @pytest.mark.parametrize("found", [held(), held(release="Suspended")], ids=["held", "asked for"])
    def test_a_silent_replica_keeps_its_jobs(self, found: Job) -> None:
        assert decided(book(found, replicas={"p/r0": replica(live=False)})) == []

    @pytest.mark.parametrize("found", [held(), held(release="Suspended")], ids=["held", "asked for"])
    def test_a_lost_replica_loses_them(self, found: Job) -> None:
        (decision,) = decided(book(found, replicas={"p/r0": replica(lost=True, cut_off_seconds=600)}))
        assert brief(decision) == ("Reclaim", Cause.LOST, 600)

    def test_a_replica_that_was_never_seen_is_silent_at_first(self) -> None:
        assert decided(book(held(replica="gone"))) == []

    def test_a_replica_without_a_lease_is_remembered_for_as_long_as_it_holds_a_job(self) -> None:
        made = book(held())
        made.drop_beat(key("p/r0"), MOMENT.mono, left=True)
        assert [brief(decision) for decision in decided(made)] == [("Reclaim", Cause.LOST, 1800)]
        made.drop_job("uid-a")
        assert decided(made) == []
        assert not made.liveness.beats


class TestClaims:
    """A replica that lives works on the jobs that its reports name."""

    def reported(self, made: Book, *names: str, at: float, renewal: int) -> None:
        """The replica has renewed its Lease, with a report that names these jobs in attempt 1."""
        report = replica(jobs=tuple(HeldJob(uid=f"uid-{name}", attempt=1) for name in names))
        made.put_beat(key("p/r0"), replace(beat(report, renew_time=str(renewal)), seen=MOMENT.mono + at))

    def after(self, made: Book, seconds: float) -> list[tuple[object, ...]]:
        """The decisions so much later."""
        return [brief(decision) for decision in decided(made, Moment(NOW, MOMENT.mono + seconds))]

    def test_a_job_that_two_reports_do_not_name_is_taken_back(self) -> None:
        made = book(held())
        self.reported(made, at=28, renewal=2)
        assert self.after(made, 30) == [], "one report"
        self.reported(made, at=33, renewal=3)
        assert self.after(made, 33) == [("Reclaim", Cause.UNCLAIMED, 0)]

    def test_a_report_that_names_it_begins_the_count_anew(self) -> None:
        made = book(held())
        for renewal, names in enumerate(((), ("a",), (), ("a",)), start=2):
            self.reported(made, *names, at=30 + renewal, renewal=renewal)
        assert self.after(made, 36) == []

    def test_reports_of_a_runner_that_does_not_see_its_jobs_count_only_after_300_seconds(self) -> None:
        """After an outage its Lease may be renewed well before its watch of the jobs goes on."""
        made = book(held())
        for at in range(5, 310, 5):
            report = replica(jobs_error="the watch of jobs is refused")
            made.put_beat(key("p/r0"), replace(beat(report, renew_time=str(at)), seen=MOMENT.mono + at))
            assert self.after(made, at) == ([] if at < 305 else [("Reclaim", Cause.UNCLAIMED, 0)])

    def test_a_job_has_30_seconds_to_be_taken_up(self) -> None:
        made = book(held())
        for renewal in range(2, 7):
            self.reported(made, at=5.0 * (renewal - 1), renewal=renewal)
        assert self.after(made, 29) == []

    def test_a_runner_that_was_started_anew_has_30_seconds_as_well(self) -> None:
        made = book(held())
        for at in range(40, 70, 5):
            made.put_beat(
                key("p/r0"), replace(beat(replica(), renew_time=str(at)), seen=MOMENT.mono + at, holder="new")
            )
        assert self.after(made, 69) == []
        assert self.after(made, 70) == [("Reclaim", Cause.UNCLAIMED, 0)]

    def test_a_report_on_an_earlier_attempt_does_not_count(self) -> None:
        made = book(held(attempts=2))
        for renewal in (2, 3):
            self.reported(made, "a", at=30 + renewal, renewal=renewal)
        assert self.after(made, 34) == [("Reclaim", Cause.UNCLAIMED, 0)]

    def test_a_release_that_is_not_honoured_within_its_bound(self) -> None:
        made = book(held(release="Cancelled"))
        for renewal in range(2, 70):
            self.reported(made, "a", at=5.0 * renewal, renewal=renewal)
        bound = Rules().release_seconds
        assert self.after(made, bound - 1) == []
        assert self.after(made, bound) == [("Reclaim", Cause.OVERDUE, 1800)]

    def test_a_silent_replica_is_not_judged_by_its_last_reports(self) -> None:
        made = book(held())
        for renewal in (2, 3):
            self.reported(made, at=renewal, renewal=renewal)
        assert self.after(made, 60) == []


def test_jobs_that_cannot_be_read_stay_as_they_are() -> None:
    made = book(held("a", cancel=True), job("b", cancel=True), job("c"), replicas={"p/r0": replica(lost=True)})
    for name in "abc":
        made.put_unreadable("videojobs", f"uid-{name}", "phase: unknown")
    assert decided(made) == []
    made.put_job(replace(made.jobs["uid-a"], version=made.jobs["uid-a"].version + 1))
    assert [type(decision) for decision in decided(made)] == [Reclaim]


def test_a_job_that_could_never_be_read_takes_its_place() -> None:
    """A new leader knows no earlier state of it; the replica that it names is not free all the same."""
    made = book(job("a"), job("b"), replicas={"p/r0": replica(slots=2)})
    made.put_unreadable("videojobs", "uid-x", "phase: unknown", key("p/r0"))
    assert len(decided(made)) == 1
    made.drop_job("uid-x")
    assert len(decided(made)) == 2
