"""What the watches of pods and Deployments tell."""

from typing import Any

from videojob.controller.workloads import Workloads


def test_a_cold_start_is_measured_once() -> None:
    seen: list[float] = []
    workloads = Workloads(lambda: None, lambda _, seconds: seen.append(seconds))

    def body(ready: str | None, uid: str = "1") -> dict[str, Any]:
        condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": ready}
        metadata = {
            "name": "a",
            "uid": uid,
            "labels": {"videojob.dev/pool": "p"},
            "creationTimestamp": "2026-11-22T12:00:00Z",
        }
        return {"metadata": metadata, "status": {"conditions": [condition]}}

    for ready in (None, "2026-11-22T12:00:20Z", None, "2026-11-22T15:00:00Z"):
        workloads.apply_pod(body(ready))
    assert seen == [20.0]
    # One that was ready when this operator came tells nothing.
    workloads.restore_pods([])
    workloads.restore_pods([body("2026-11-22T12:00:30Z", "2")])
    assert seen == [20.0]
