"""JSON objects as an API server has them, and such a server in memory that checks fences and fails on demand."""

import asyncio
import copy
from collections.abc import Callable, Sequence
from typing import Any

from videojob.api import FINALIZER
from videojob.api.replica import COMPONENT_LABEL, POOL_LABEL, REPLICA_LABEL, REPORT_ANNOTATION, lease_name
from videojob.kube.client import KubeError, ResourceKind

Json = dict[str, Any]
FENCE_BROKEN = "the server rejected our request due to an error in our request"
ASSIGNMENT = {"pool": "p", "replica": "r0"}
STORE = "file:///store"


def job_body(
    uid: str = "a", version: int = 1, *, spec: Json | None = None, status: Json | None = None, **metadata: Any
) -> Json:
    """A VideoJob of namespace team."""
    return {
        "metadata": {
            "name": uid,
            "namespace": "team",
            "uid": uid,
            "resourceVersion": str(version),
            "generation": 1,
            "creationTimestamp": "2026-11-22T11:59:00Z",
            "finalizers": [FINALIZER],
            **metadata,
        },
        "spec": {"model": "tiny", "shots": [{"prompt": "a private prompt", "seconds": 3}], **(spec or {})},
        "status": {"phase": "Pending", **(status or {})},
    }


def held_body(uid: str = "a", version: int = 1, *, release: str | None = None, **fields: Any) -> Json:
    """A VideoJob that replica p/r0 holds in its first attempt."""
    assignment = ASSIGNMENT | ({"release": release} if release else {})
    status = {
        "phase": "Running",
        "attempts": 1,
        "assignment": assignment,
        "pool": "p",
        "storeURI": f"{STORE}/team/{uid}",
        "resolved": resolved_body(),
        "progress": {"chunksDone": 2, "chunksTotal": 5},
    }
    return job_body(uid, version, **{**fields, "status": status | fields.get("status", {})})


def begun_body(uid: str = "a", version: int = 1, **fields: Any) -> Json:
    """A VideoJob that was held once, by pool p, and waits."""
    body = held_body(uid, version, **fields)
    body["status"] |= {"phase": "Pending"} | fields.get("status", {})
    del body["status"]["assignment"]
    return body


def resolved_body() -> Json:
    return {
        "width": 832,
        "height": 480,
        "fps": 16,
        "steps": 4,
        "guidanceScale": 1.0,
        "seed": 7,
        "frames": 48,
        "chunks": 5,
        "modelUID": "uid-tiny",
        "modelGeneration": 1,
        "weightsDigest": "sha256:aa",
    }


def model_body(name: str = "tiny", version: int = 1) -> Json:
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1},
        "spec": {
            "family": "AnyFlowFAR",
            "source": {"directory": "/models"},
            "precision": "float32",
            "memory": {"weightsBytes": 0, "perJobBytes": 0},
        },
    }


def queue_body(name: str = "default", version: int = 1, **spec: Any) -> Json:
    metadata = {"name": name, "namespace": "team", "uid": f"uid-q-{name}", "resourceVersion": str(version)}
    return {"metadata": {**metadata, "generation": 1}, "spec": spec, "status": {}}


def pool_body(name: str = "p", version: int = 1, *, managed: bool = False, **spec: Any) -> Json:
    made: Json = {"accelerator": "nvidia-h200" if managed else "cpu", "models": ["tiny"], "store": {"url": STORE}}
    if not managed:
        made["endpoints"] = [{"name": "r0", "url": "localhost:1", "maxJobs": 2}]
    return {
        "metadata": {"name": name, "uid": f"uid-{name}", "resourceVersion": str(version), "generation": 1},
        "spec": {**made, **spec},
        "status": {},
    }


def lease_body(
    pool: str = "p", replica: str = "r0", version: int = 1, *, renewed: str = "1", holder: str = "runner", **more: Any
) -> Json:
    report = more.pop("report", '{"slots": 2}')
    annotations = {} if report is None else {REPORT_ANNOTATION: report}
    return {
        "metadata": {
            "name": lease_name(pool, replica),
            "namespace": "videojob-system",
            "uid": f"uid-l-{replica}",
            "resourceVersion": str(version),
            "labels": {POOL_LABEL: pool, REPLICA_LABEL: replica, COMPONENT_LABEL: "replica"},
            "annotations": annotations | more.pop("annotations", {}),
        },
        "spec": {"holderIdentity": holder, "renewTime": renewed, "leaseDurationSeconds": 15, **more},
    }


def pod_body(name: str = "r0", pool: str = "p", *, ready: str | None = None, uid: str = "", **metadata: Any) -> Json:
    conditions = [{"type": "Ready", "status": "True", "lastTransitionTime": ready}] if ready else []
    return {
        "metadata": {
            "name": name,
            "uid": uid or f"uid-pod-{name}",
            "resourceVersion": "1",
            "labels": {POOL_LABEL: pool},
            "creationTimestamp": "2026-11-22T11:59:00Z",
            **metadata,
        },
        "status": {"conditions": conditions},
    }


def deployment_body(pool: str = "p", version: int = 1, *, replicas: int = 2, generation: int = 1) -> Json:
    return {
        "metadata": {
            "name": f"pool-{pool}",
            "uid": f"uid-d-{pool}",
            "resourceVersion": str(version),
            "generation": generation,
            "labels": {POOL_LABEL: pool},
        },
        "spec": {"replicas": replicas},
    }


class Server:
    """The part of an API server that decisions need.

    `log` has every request that came, `written` those that took place.
    `before` is called with verb, kind and name before each request; it may raise, or wait.
    """

    def __init__(self) -> None:
        self.objects: dict[tuple[str, str], Json] = {}
        self.version = 100
        self.log: list[tuple[str, str, str]] = []
        self.written: list[tuple[str, str, str]] = []
        self.patches: list[Any] = []
        self.before: Callable[[str, ResourceKind, str], Any] = lambda verb, kind, name: None

    def put(self, kind: ResourceKind, body: Json) -> Json:
        self.objects[kind.plural, body["metadata"]["name"]] = body
        return body

    def read(self, kind: ResourceKind, name: str) -> Json:
        return self.objects[kind.plural, name]

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Json:
        await self._come("get", kind, name)
        return copy.deepcopy(self._find(kind, name))

    async def list(self, kind: ResourceKind, namespace: str | None = None, **selectors: str) -> Json:
        await self._come("list", kind, str(sorted(selectors)))
        items = [copy.deepcopy(body) for (plural, _), body in self.objects.items() if plural == kind.plural]
        return {"metadata": {"resourceVersion": str(self.version)}, "items": items}

    async def json_patch(
        self,
        kind: ResourceKind,
        name: str,
        operations: Sequence[Json],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        await self._come("patch", kind, name)
        self.patches.append(list(operations))
        body = copy.deepcopy(self._find(kind, name))
        for operation in operations:
            _apply(body, operation)
        return self._store("patch", kind, body)

    async def merge_patch(
        self,
        kind: ResourceKind,
        name: str,
        body: Json,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        await self._come("merge", kind, name)
        self.patches.append(body)
        found = copy.deepcopy(self._find(kind, name))
        uid = body.get("metadata", {}).get("uid", found["metadata"]["uid"])
        if uid != found["metadata"]["uid"]:
            raise KubeError(409, "Precondition failed: UID in precondition")
        return self._store("merge", kind, _merged(found, body))

    async def apply(self, kind: ResourceKind, name: str, body: Json, namespace: str, manager: str) -> Json:
        await self._come("apply", kind, name)
        self.patches.append(body)
        found = copy.deepcopy(self.objects.get((kind.plural, name), {"metadata": {"generation": 0, "uid": "made"}}))
        wanted = body["metadata"].get("resourceVersion")
        if wanted is not None and wanted != found["metadata"].get("resourceVersion"):
            raise KubeError(409, "the object has been modified")
        found["metadata"]["generation"] += 1
        return self._store("apply", kind, _merged(found, body))

    async def delete(
        self, kind: ResourceKind, name: str, namespace: str | None = None, preconditions: Json | None = None
    ) -> None:
        await self._come("delete", kind, name)
        self.patches.append(preconditions)
        metadata = self._find(kind, name)["metadata"]
        if any(metadata.get(key) != value for key, value in (preconditions or {}).items()):
            raise KubeError(409, "Precondition failed")
        del self.objects[kind.plural, name]
        self.written.append(("delete", kind.plural, name))

    async def _come(self, verb: str, kind: ResourceKind, name: str) -> None:
        self.log.append((verb, kind.plural, name))
        await asyncio.sleep(0)
        waited = self.before(verb, kind, name)
        if waited is not None:
            await waited

    def _find(self, kind: ResourceKind, name: str) -> Json:
        if (kind.plural, name) not in self.objects:
            raise KubeError(404, f"{kind.plural} {name} not found")
        return self.objects[kind.plural, name]

    def _store(self, verb: str, kind: ResourceKind, body: Json) -> Json:
        self.version += 1
        body["metadata"]["resourceVersion"] = str(self.version)
        self.objects[kind.plural, body["metadata"]["name"]] = body
        self.written.append((verb, kind.plural, body["metadata"]["name"]))
        return copy.deepcopy(body)


def _apply(body: Json, operation: Json) -> None:
    """One operation of a JSON patch."""
    *path, last = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
    where: Any = body
    try:
        for part in path:
            where = where[int(part) if isinstance(where, list) else part]
        key: Any = int(last) if isinstance(where, list) and last != "-" else last
        if operation["op"] == "test":
            if where[key] != operation["value"]:
                raise KubeError(422, FENCE_BROKEN)
        elif operation["op"] == "remove":
            del where[key]
        elif isinstance(where, list):
            where.append(operation["value"]) if key == "-" else where.insert(key, operation["value"])
        else:
            where[key] = operation["value"]
    except (KeyError, IndexError, TypeError) as error:
        raise KubeError(422, FENCE_BROKEN) from error


def _merged(old: Json, patch: Json) -> Json:
    new = dict(old)
    for key, value in patch.items():
        if value is None:
            new.pop(key, None)
        elif isinstance(value, dict):
            new[key] = _merged(old.get(key) or {}, value)
        else:
            new[key] = value
    return new
