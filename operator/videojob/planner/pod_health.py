"""What keeps a pool's pods from serving, and what to do about it."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from videojob.api.conditions import ConditionType
from videojob.api.reasons import Reason
from videojob.planner.facts import Container, Pod

NODE_PATIENCE_SECONDS = 300.0
"""A cluster that adds nodes for pods that wait has done so by then."""
CRASHES = 3
"""Restarts of a container after which it counts as one that keeps ending, if it does not run now."""
PULL_REASONS = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
)
"""Reasons that kubelet gives while an image is not there."""
SILENT_REASONS = frozenset({"ContainerCreating", "PodInitializing"})


class Trouble(NamedTuple):
    """Something that keeps pods from serving."""

    condition: ConditionType
    """The one that it makes False."""
    reason: Reason
    message: str


class NamedPod(NamedTuple):
    """A pod and its name."""

    name: str
    pod: Pod


def troubles(pods: Iterable[NamedPod], now: datetime) -> Iterator[Trouble]:
    """Every kind of trouble that the pods have, the gravest first, each with the first pod that has it."""
    staying = [one for one in pods if not one.pod.ending]
    for find in (_image, _crash, _node):
        found = [(name, trouble) for name, pod in staying if (trouble := find(pod, now)) is not None]
        if found:
            name, trouble = found[0]
            who = f"{len(found)} of {len(staying)} pods, such as {name}: "
            yield trouble._replace(message=who + trouble.message)


def _image(pod: Pod, _: datetime) -> Trouble | None:
    if pod.waiting is None or pod.waiting.reason not in PULL_REASONS:
        return None
    return Trouble(
        ConditionType.IMAGES_PULLED,
        Reason.IMAGE_PULL_FAILED,
        f"{pod.waiting.reason}: {pod.waiting.message} "
        "Correct spec.template.image or runnerImage, or give imagePullSecrets.",
    )


def _crash(pod: Pod, _: datetime) -> Trouble | None:
    waiting = pod.waiting.reason if pod.waiting is not None else ""
    if waiting == "CrashLoopBackOff" or (pod.restarts >= CRASHES and pod.ready_since is None):
        last = pod.last_exit or Container("unknown")
        how = f"{last.reason}{f' ({last.message})' if last.message else ''}"
        advice = (
            "Raise its memory limit in spec.template: tritonResources or runnerResources."
            if last.reason == "OOMKilled"
            else "See its log: kubectl logs POD --all-containers --previous."
        )
        message = f"a container has ended {pod.restarts} times, the last time by {how}. {advice}"
    elif pod.waiting is not None and waiting not in PULL_REASONS | SILENT_REASONS:
        message = f"a container does not start: {waiting}: {pod.waiting.message}"
    else:
        return None
    return Trouble(ConditionType.PODS_STABLE, Reason.CRASH_LOOP, message)


def _node(pod: Pod, now: datetime) -> Trouble | None:
    if pod.unschedulable_since is None:
        return None
    waited = (now - pod.unschedulable_since).total_seconds()
    if waited < NODE_PATIENCE_SECONDS:
        return Trouble(ConditionType.PODS_SCHEDULED, Reason.UNSCHEDULABLE, f"no node takes it: {pod.unschedulable}")
    return Trouble(
        ConditionType.PODS_SCHEDULED,
        Reason.NODE_PROVISIONING_TIMEOUT,
        f"no node has taken it for more than {NODE_PATIENCE_SECONDS / 60:g} minutes: {pod.unschedulable} "
        "Let the node pool grow, lower scaling.maxReplicas, or correct nodeSelector, tolerations and resourceName.",
    )
