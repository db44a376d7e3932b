"""What comes from the API server into the book: only newer objects, once each, and nothing that ends anything."""

import json
from typing import Any

import pytest

from tests.controller.bench import Bench
from tests.controller.objects import (
    Json,
    begun_body,
    deployment_body,
    held_body,
    job_body,
    lease_body,
    model_body,
    pod_body,
    pool_body,
    queue_body,
)
from tests.planner.builders import MONO, NOW
from videojob.api.replica import DRAIN_ANNOTATION
from videojob.kube.client import (
    DEPLOYMENTS,
    GPU_POOLS,
    LEASES,
    PODS,
    VIDEO_JOBS,
    VIDEO_MODELS,
    VIDEO_QUEUES,
    ResourceKind,
)
from videojob.planner.facts import Health, ReplicaKey
from videojob.planner.service import Service

R0 = ReplicaKey("p", "r0")
DONE: Json = {"phase": "Succeeded", "completionTime": "2026-11-22T12:00:00Z"}


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    for kind, body in (
        (VIDEO_MODELS, model_body()),
        (VIDEO_QUEUES, queue_body()),
        (GPU_POOLS, pool_body("m", managed=True)),
        (GPU_POOLS, pool_body()),
    ):
        made.intake.apply(kind, body)
    made.changes = 0
    return made


# Versions


def test_an_object_is_replaced_only_by_a_newer_one(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body(version=5))
    bench.intake.apply(VIDEO_JOBS, job_body(version=4))
    bench.intake.apply(VIDEO_JOBS, job_body(version=5))
    assert bench.book.jobs["a"].version == 5
    assert bench.book.jobs["a"].assignment is not None
    assert bench.changes == 1
    bench.intake.apply(VIDEO_JOBS, job_body(version=6))
    assert bench.book.jobs["a"].assignment is None


def test_an_answer_to_a_write_does_not_bring_back_what_is_gone(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, job_body(version=5))
    bench.intake.apply(VIDEO_JOBS, job_body(version=6), deleted=True)
    bench.intake.apply(VIDEO_JOBS, job_body(version=7), insert=False)
    assert not bench.book.jobs


def test_a_job_that_needs_nothing_more_takes_a_version_only(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, job_body(version=5, status=DONE | {"observedGeneration": 1}))
    assert not bench.book.jobs
    assert bench.intake.known(VIDEO_JOBS) == {"a": 5}


def test_a_record_has_what_decisions_are_fenced_by(bench: Bench) -> None:
    conditions = [
        {
            "type": "Assigned",
            "status": "False",
            "reason": "Queued",
            "message": "",
            "lastTransitionTime": "2026-11-22T12:00:00Z",
            "observedGeneration": 3,
        }
    ]
    status = {"observedGeneration": 4, "conditions": conditions}
    bench.intake.apply(VIDEO_JOBS, job_body(version=9, generation=4, status=status))
    job = bench.book.jobs["a"]
    assert (job.version, job.generation, job.observed_generation) == (9, 4, 3)
    assert json.loads(job.status) == {"phase": "Pending", **status}
    bench.intake.apply(VIDEO_JOBS, job_body("b", status={"observedGeneration": None, "conditions": conditions}))
    assert bench.book.jobs["b"].observed_generation == 0


def test_a_seed_is_drawn_once(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, job_body(version=1))
    bench.intake._draw_seed = lambda: 8
    bench.intake.apply(VIDEO_JOBS, job_body(version=2))
    assert bench.book.jobs["a"].seed == 7


def test_what_others_manage_is_left_alone(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, job_body(spec={"managedBy": "example.com/other"}))
    bench.intake.apply(GPU_POOLS, pool_body("theirs", operatorNamespace="elsewhere"))
    assert not bench.book.jobs
    assert "theirs" not in bench.book.pools


@pytest.mark.parametrize(
    ("kind", "body", "table"),
    [
        (VIDEO_JOBS, job_body(), "jobs"),
        (VIDEO_QUEUES, queue_body("q"), "queues"),
        (VIDEO_MODELS, model_body("n"), "models"),
        (GPU_POOLS, pool_body("x"), "pools"),
    ],
    ids=lambda value: value.plural if isinstance(value, ResourceKind) else "",
)
def test_what_an_audit_finds_gone_is_forgotten(bench: Bench, kind: ResourceKind, body: Json, table: str) -> None:
    before = dict(getattr(bench.book, table))
    bench.intake.apply(kind, body)
    assert getattr(bench.book, table) != before
    assert bench.intake.known(kind)[body["metadata"]["uid"]] == 1
    bench.intake.forget(kind, body["metadata"]["uid"])
    assert getattr(bench.book, table) == before


# What has become of a job


def test_progress_is_measured_and_attributed_to_store_and_replica(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body(version=1))
    later = held_body(version=2, status={"progress": {"chunksDone": 3}, "timing": {"runningSeconds": 4.0}})
    bench.intake.apply(VIDEO_JOBS, later)
    assert bench.book.estimates.measured
    for server in (R0, "p"):
        assert bench.book.service.served_other(server, "another", NOW)
        assert not bench.book.service.served_other(server, "a", NOW)


def test_what_is_read_at_the_start_is_no_progress(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body(version=1))
    bench.intake.apply(VIDEO_JOBS, held_body(version=2, status={"attempts": 2, "progress": {"chunksDone": 4}}))
    assert bench.book.service._last == Service()._last
    assert not bench.book.estimates.measured


def test_the_end_of_a_job_is_counted_once(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body(version=1))
    done = held_body(version=2, status=DONE | {"assignment": None})
    bench.intake.apply(VIDEO_JOBS, done)
    bench.intake.apply(VIDEO_JOBS, done | {"metadata": done["metadata"] | {"resourceVersion": "3"}})
    assert [job.metadata.uid for job in bench.observed.jobs_ended] == ["a"]


# Unreadable is not absent

NO_JOB = {"phase": "Preempted"}


def test_a_job_that_cannot_be_read_any_more_stays_and_is_reported_once(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body(version=1))
    bench.intake.apply(VIDEO_JOBS, held_body(version=2, status=NO_JOB))
    bench.changes = 0
    for _ in range(3):
        bench.intake.apply(VIDEO_JOBS, held_body(version=2, status=NO_JOB))
    assert bench.changes == 0
    assert [kind for kind, _ in bench.observed.unread] == ["videojobs"]
    assert "a private prompt" not in bench.observed.unread[0][1]
    assert "a" in bench.book.agenda.held[R0], "it keeps its slot"
    assert bench.book.frozen("a"), "no decision rests on it"
    assert bench.intake.known(VIDEO_JOBS) == {"a": 2}, "an audit need not read it again"
    bench.intake.apply(VIDEO_JOBS, held_body(version=1, status={"attempts": 1}))
    assert bench.book.frozen("a"), "an older version changes nothing"
    bench.intake.apply(VIDEO_JOBS, begun_body(version=3))
    assert not bench.book.frozen("a")
    assert not bench.book.unreadable


def test_a_job_that_could_never_be_read_takes_its_place(bench: Bench) -> None:
    body = held_body(version=5)
    body["status"]["phase"] = "FromANewerVersion"
    bench.intake.apply(VIDEO_JOBS, body)
    assert not bench.book.jobs
    assert list(bench.book.opaque.values()) == [R0]
    bench.intake.apply(VIDEO_JOBS, held_body(version=6))
    assert not bench.book.opaque


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Cancelled"])
def test_a_job_that_ended_while_it_could_not_be_read_takes_no_place(bench: Bench, phase: str) -> None:
    bench.intake.apply(VIDEO_JOBS, held_body())
    for version, status, there in [
        (2, {"phase": phase}, True),
        (3, {"phase": "Pending", "assignment": None}, True),
        (4, {"phase": phase, "assignment": None}, False),
    ]:
        body = held_body(version=version)
        body["spec"]["priority"] = "high"
        body["status"] |= status
        bench.intake.apply(VIDEO_JOBS, body)
        assert ("a" in bench.book.agenda.held.get(R0, ())) == there
        assert bench.book.frozen("a"), "no decision rests on it"
    bench.intake.apply(VIDEO_JOBS, held_body(version=5))
    assert "a" in bench.book.agenda.held[R0], "what can be read again counts"


def test_an_older_version_of_a_pool_that_cannot_be_read_changes_nothing(bench: Bench) -> None:
    """A watch that stood still shows it after a listing has shown the corrected one: for ever, where that stays."""
    body = pool_body(version=7)
    bench.intake.apply(GPU_POOLS, body)
    older = pool_body(version=6)
    older["spec"]["models"] = "tiny"
    bench.intake.apply(GPU_POOLS, older)
    assert not bench.book.unreadable
    older["metadata"]["resourceVersion"] = "8"
    bench.intake.apply(GPU_POOLS, older)
    assert bench.book.unreadable


def test_an_unreadable_object_that_goes_is_forgotten(bench: Bench) -> None:
    bench.intake.apply(VIDEO_JOBS, job_body(status=NO_JOB))
    assert bench.book.unreadable
    bench.intake.apply(VIDEO_JOBS, job_body(version=2, status=NO_JOB), deleted=True)
    assert not bench.book.unreadable
    assert bench.intake.known(VIDEO_JOBS) == {}


BROKEN: list[Any] = [
    {},
    {"metadata": None},
    {"metadata": {}},
    {"metadata": {"name": "r0", "uid": 7, "resourceVersion": []}},
    {"metadata": {"name": "r0", "uid": "u", "resourceVersion": "abc"}, "spec": 5, "status": 5},
    {"metadata": {"name": "r0", "uid": "u", "resourceVersion": "7", "labels": 5}, "spec": [], "status": []},
    lease_body(version=7) | {"spec": None},
    lease_body(version=7) | {"spec": {"leaseDurationSeconds": "soon", "holderIdentity": "x"}},
    pod_body() | {"status": {"conditions": [{}]}},
    pod_body(creationTimestamp="yesterday"),
    deployment_body() | {"spec": {"replicas": "many"}},
    deployment_body() | {"spec": None},
]


@pytest.mark.parametrize("body", BROKEN)
@pytest.mark.parametrize(
    "kind",
    [VIDEO_JOBS, VIDEO_QUEUES, VIDEO_MODELS, GPU_POOLS, LEASES, PODS, DEPLOYMENTS],
    ids=lambda kind: kind.plural,
)
def test_nothing_that_comes_ends_anything(bench: Bench, kind: ResourceKind, body: Json) -> None:
    bench.intake.apply(LEASES, lease_body())
    bench.intake.apply(PODS, pod_body())
    bench.intake.apply(DEPLOYMENTS, deployment_body())
    bench.intake.apply(kind, body)
    bench.intake.apply(kind, body, deleted=True)
    if kind in (LEASES, PODS, DEPLOYMENTS):
        bench.intake.restore(kind, [body])


# Leases


def health(bench: Bench, after: float = 0.0) -> Health:
    return bench.book.liveness.health(R0, MONO + after)


def test_a_heartbeat_is_judged_from_when_its_change_was_seen(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body(version=1, renewed="2020-01-01T00:00:00Z"))
    assert health(bench, 14.9) is Health.LIVE
    assert health(bench, 15) is Health.SILENT
    bench.seconds = 10
    bench.intake.apply(LEASES, lease_body(version=2, renewed="2020-01-01T00:00:00Z", annotations={"x": "y"}))
    assert health(bench, 15) is Health.SILENT, "a change of an annotation is no renewal"
    bench.intake.apply(LEASES, lease_body(version=3, renewed="2020-01-01T00:00:05Z"))
    assert health(bench, 24.9) is Health.LIVE
    bench.intake.apply(LEASES, lease_body(version=2, renewed="2020-01-01T00:00:00Z"))
    assert health(bench, 24.9) is Health.LIVE
    bench.seconds = 20
    bench.intake.apply(LEASES, lease_body(version=1, renewed="older"))
    assert health(bench, 26) is Health.SILENT, "an old event that comes late is no renewal"


def test_a_lease_that_was_given_up_is_known_to_be_left(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body(version=1))
    bench.intake.apply(LEASES, lease_body(version=2, holder=""))
    assert health(bench) is Health.LOST


def test_a_report_that_cannot_be_read_leaves_the_last_one_and_the_renewal_counts(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body(version=1, report='{"slots": 3}'))
    bench.intake.apply(VIDEO_JOBS, held_body())
    bench.book.advance(bench.clock())
    for second in range(2, 40, 2):
        bench.seconds = second
        bench.intake.apply(LEASES, lease_body(version=second, renewed=str(second), report='{"slots": "none"}'))
        bench.book.advance(bench.clock())
    beat = bench.book.liveness.beats[R0]
    assert beat.replica is not None
    assert beat.replica.report.slots == 3
    assert "not valid" in beat.replica.report.triton_error, "it gets no new job, and its pool says why"
    assert health(bench, 40) is Health.LIVE
    assert bench.book.claims["a"].unnamed == 0, "it does not say that the job is not there"
    assert [kind for kind, _ in bench.observed.unread] == ["leases"]
    bench.intake.apply(LEASES, lease_body(version=50, renewed="50", report='{"slots": 1}'))
    assert not bench.book.unreadable


def test_a_lease_of_another_name_is_no_replica(bench: Bench) -> None:
    body = lease_body()
    body["metadata"]["name"] = "p-r0"
    bench.intake.apply(LEASES, body)
    assert not bench.book.liveness.beats
    assert ("leases", "p-r0") in bench.book.unreadable


def test_a_drain_that_somebody_asked_for_is_seen(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body(annotations={DRAIN_ANNOTATION: "Upgrade"}))
    replica = bench.book.liveness.beats[R0].replica
    assert replica is not None
    assert (replica.draining, replica.drain_reason) == (True, "Upgrade")


def test_a_listing_drops_what_is_not_in_it_unless_that_was_seen_later(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body(replica="r0", version=5))
    bench.intake.apply(LEASES, lease_body(replica="r1", version=9))
    bench.intake.apply(LEASES, lease_body(replica="r2", version=6))
    bench.intake.restore(LEASES, [lease_body(replica="r2", version=6)], version=7)
    beats = bench.book.liveness.beats
    assert {key.name for key, beat in beats.items() if beat.replica is not None} == {"r1", "r2"}
    bench.intake.restore(LEASES, [])
    assert not any(beat.replica for beat in beats.values())


# Pods and Deployments


def test_a_managed_replica_whose_pod_is_gone_has_left_until_it_renews_again(bench: Bench) -> None:
    key = ReplicaKey("m", "r0")
    bench.intake.apply(PODS, pod_body(pool="m"))
    bench.intake.apply(LEASES, lease_body("m", version=1, renewed="1"))
    bench.intake.apply(PODS, pod_body(pool="m"), deleted=True)
    assert bench.book.liveness.health(key, MONO) is Health.LOST
    bench.intake.apply(LEASES, lease_body("m", version=2, renewed="2"))
    assert bench.book.liveness.health(key, MONO) is Health.LIVE, "its node was cut off, and it works on"


def test_a_lease_that_comes_before_its_pod_is_alive(bench: Bench) -> None:
    bench.intake.apply(LEASES, lease_body("m"))
    assert bench.book.liveness.health(ReplicaKey("m", "r0"), MONO) is Health.LIVE


def test_another_pod_of_the_name_is_not_the_one_that_is_gone(bench: Bench) -> None:
    bench.intake.apply(PODS, pod_body(pool="m", uid="old"))
    bench.intake.apply(PODS, pod_body(pool="m", uid="new"))
    bench.intake.apply(PODS, pod_body(pool="m", uid="old"), deleted=True)
    assert bench.book.pods[ReplicaKey("m", "r0")].uid == "new"


def test_a_cold_start_counts_once_and_only_if_it_was_seen(bench: Bench) -> None:
    bench.intake.apply(PODS, pod_body("seen-ready", "m", ready="2026-11-22T11:59:30Z"))
    bench.intake.apply(PODS, pod_body("watched", "m"))
    for ready in ("2026-11-22T11:59:20Z", None, "2026-11-22T11:59:40Z"):
        bench.intake.apply(PODS, pod_body("watched", "m", ready=ready))
    assert bench.observed.starts == [("m", 20.0)]
    assert bench.book.memories["m"].cold_start_seconds == 20.0


def test_a_deployment_is_known_by_its_newest_version(bench: Bench) -> None:
    bench.intake.apply(DEPLOYMENTS, deployment_body("m", 5, replicas=3, generation=2))
    bench.intake.apply(DEPLOYMENTS, deployment_body("m", 4, replicas=9, generation=1))
    bench.intake.apply(DEPLOYMENTS, deployment_body("m", 4), deleted=True)
    assert bench.book.deployments["m"].wanted == 3
    bench.intake.restore(DEPLOYMENTS, [])
    assert not bench.book.deployments
