"""Whether a replica is able to serve a model, whatever it is busy with."""

from enum import IntEnum
from typing import NamedTuple

from videojob.api.reasons import Reason
from videojob.api.replica import ModelState
from videojob.api.videomodel import VideoModel
from videojob.planner.facts import Health, Replica, ReplicaKey


class Rank(IntEnum):
    """How near a replica is to taking a job; of a pool's replicas the nearest is reported."""

    NO_HEARTBEAT = 0
    DRAINING = 1
    LOADING = 2
    NO_STORE = 3
    NO_TRITON = 4
    NO_ACCELERATOR = 5
    LOAD_FAILED = 6
    BLIND = 7
    OTHER_WEIGHTS = 8
    TOO_SMALL = 9
    ELIGIBLE = 10


class Verdict(NamedTuple):
    """How near a replica is to taking a job, a sentence that says why not, and the weights it would take it with."""

    rank: Rank
    note: str
    reason: Reason
    """Of the pool, where the replica is the nearest one of it; `REASONS` says what a job makes of it."""
    digest: str = ""
    """Empty where a model that is not loaded has weights that nobody has read yet."""
    loaded: bool = True
    """The model need not be loaded first."""


def judge(replica: Replica | None, model: VideoModel) -> Verdict:
    """Whether a replica is able to serve a model."""
    if replica is None or replica.health is Health.LOST:
        return Verdict(Rank.NO_HEARTBEAT, "no replica has a live heartbeat.", Reason.REPLICAS_UNAVAILABLE)
    if not replica.live:
        return Verdict(
            Rank.NO_HEARTBEAT, "its replicas are silent; they are not known to be lost.", Reason.REPLICAS_UNAVAILABLE
        )
    report = replica.report
    if replica.draining or report.draining:
        return Verdict(Rank.DRAINING, "its live replicas are draining.", Reason.DRAINED)
    if report.store_error:
        return Verdict(Rank.NO_STORE, report.store_error, Reason.STORE_UNAVAILABLE)
    if report.triton_error:
        return Verdict(Rank.NO_TRITON, report.triton_error, Reason.TRITON_UNAVAILABLE)
    if report.accelerator_error:
        return Verdict(Rank.NO_ACCELERATOR, report.accelerator_error, Reason.ACCELERATOR_FAILED)
    loaded = next((loaded for loaded in report.models if loaded.uid == model.metadata.uid), None)
    if loaded is not None and loaded.state is ModelState.FAILED:
        note = f"VideoModel {loaded.name} does not load: {loaded.message}"
        return Verdict(Rank.LOAD_FAILED, note, Reason.MODEL_LOAD_FAILED)
    if loaded is None or loaded.state is ModelState.LOADING:
        return Verdict(Rank.LOADING, f"VideoModel {model.metadata.name} is not loaded yet.", Reason.MODEL_LOADING)
    if report.jobs_error:
        note = f"its runner does not see which jobs are assigned to it: {report.jobs_error}"
        return Verdict(Rank.BLIND, note, Reason.REPLICAS_UNAVAILABLE)
    return Verdict(Rank.ELIGIBLE, "", Reason.READY, digest=loaded.digest, loaded=loaded.state is ModelState.READY)


class Verdicts:
    """Verdicts that were made, kept for as long as their replicas stay as they are."""

    def __init__(self) -> None:
        self._made: dict[ReplicaKey, tuple[Replica, dict[str, Verdict]]] = {}

    def judge(self, key: ReplicaKey, replica: Replica | None, model: VideoModel) -> Verdict:
        """Whether the replica is able to serve the model."""
        if replica is None:
            self._made.pop(key, None)
            return judge(None, model)
        known = self._made.get(key)
        if known is None or known[0] is not replica:
            known = self._made[key] = (replica, {})
        uid = model.metadata.uid
        verdict = known[1].get(uid)
        if verdict is None:
            verdict = known[1][uid] = judge(replica, model)
        return verdict
