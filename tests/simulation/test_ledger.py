"""What the ledger takes for a fault, at the limits."""

import asyncio
import random
from collections import deque
from types import SimpleNamespace
from typing import cast

import pytest

from tests.simulation.clock import Clock
from tests.simulation.ledger import LEASE_SECONDS, SETTLED_SECONDS, Ledger
from tests.simulation.model_store import Stores
from videojob.api.replica import REPORT_ANNOTATION

NOW = 100.0
SILENT = NOW - 3 * LEASE_SECONDS
"""The last renewal before the pause of the runner."""


@pytest.mark.parametrize(
    ("back", "known", "found"),
    [
        pytest.param(None, NOW - 0.02, False, id="silent"),
        pytest.param(NOW - 0.001, NOW - 0.02, False, id="renewed after what the operator knew"),
        pytest.param(NOW - 0.03, NOW - 0.02, True, id="renewed, as the operator knew"),
        pytest.param(NOW - 5.0, NOW - 0.02, True, id="renewed long ago, as the operator knew"),
        pytest.param(None, SILENT + 5.0, True, id="silent, as the operator did not know"),
    ],
)
def test_a_loss_is_judged_by_what_the_operator_knew(back: float | None, known: float, found: bool) -> None:
    now = SILENT
    clock = Clock(cast("asyncio.AbstractEventLoop", SimpleNamespace(time=lambda: now)))
    ledger = Ledger(clock, Stores(clock, random.Random(1)), lambda: [], lambda: known, deque())
    for now in (SILENT, back) if back is not None else (SILENT,):
        report = {REPORT_ANNOTATION: '{"jobs": [{"uid": "u1", "attempt": 1}]}'}
        lease = {"metadata": {"name": "a.r0", "annotations": report}, "spec": {"renewTime": str(now)}}
        ledger.changed("leases", None, lease, "runner-a.r0.1")

    now = NOW
    job = {"metadata": {"uid": "u1", "name": "j0"}, "spec": {}}
    held = {"phase": "Running", "attempts": 1, "assignment": {"pool": "a", "replica": "r0"}}
    taken = {"phase": "Pending", "reason": "ReplicaLost", "attempts": 1, "losses": 1}
    ledger.changed("videojobs", {**job, "status": held}, {**job, "status": taken}, "operator-0")

    assert any("is taken from a.r0" in fault for fault in ledger.faults) == found


@pytest.mark.parametrize(
    ("resumed", "found"),
    [
        pytest.param(float("-inf"), True, id="never stood still"),
        pytest.param(NOW - 0.01, False, id="it may have looked before it stood still"),
        pytest.param(NOW - SETTLED_SECONDS - 1, True, id="it went on long ago"),
    ],
)
def test_a_chunk_is_not_begun_again_by_who_could_know(
    resumed: float, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(cast("asyncio.AbstractEventLoop", SimpleNamespace(time=lambda: NOW)))
    ledger = Ledger(clock, Stores(clock, random.Random(1)), lambda: [], lambda: NOW, deque())
    ledger.jobs["u1"] = {"metadata": {"uid": "u1", "namespace": "n"}, "status": {"storeURI": "file:///a/n/u1"}}
    monkeypatch.setattr("tests.simulation.ledger.committed", lambda bucket, prefix: {3: NOW - 10})
    monkeypatch.setattr("tests.simulation.ledger.current", lambda: SimpleNamespace(resumed=resumed))

    ledger.chunk_begun("u1", 3, 1)

    assert any("chunk 3 of u1 is made again, 10.0 s after" in fault for fault in ledger.faults) == found
