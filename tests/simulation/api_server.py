"""An API server in memory: objects, versions, watches, and the rules by which it refuses. It has no faults of its own.

What the project rests on is as the real one does it: JSON patches that apply as a whole, with one sentence for every
reason why one does not; a status that only its subresource changes; a generation that rises with the spec; finalizers;
preconditions; writes that change nothing and make no version; watches that send DELETED where an object leaves a
selection; versions that are too old after a compaction.
"""

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import BaseModel, ValidationError

from tests.simulation.clock import Clock
from tests.simulation.documents import (
    Json,
    PatchError,
    json_patch,
    matches,
    merge_patch,
    selector,
    with_defaults,
)
from videojob.api.gpupool import GPUPool
from videojob.api.videojob import VideoJob
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue

_MANIFESTS = Path(__file__).parents[2] / "manifests" / "crds"
CUSTOM: Mapping[str, type[BaseModel]] = {
    "videojobs": VideoJob,
    "videoqueues": VideoQueue,
    "videomodels": VideoModel,
    "gpupools": GPUPool,
}
_SCHEMAS: Mapping[str, Json] = {
    plural: yaml.safe_load((_MANIFESTS / f"{plural}.yaml").read_text())["spec"]["versions"][0]["schema"][
        "openAPIV3Schema"
    ]
    for plural in CUSTOM
}
_REASONS = {400: "BadRequest", 404: "NotFound", 409: "Conflict", 410: "Expired", 422: "Invalid"}
PATCH_REFUSED = "the server rejected our request due to an error in our request"


class Refused(Exception):
    """The server refuses a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def body(self) -> Json:
        """A `metav1.Status`."""
        return status(self.code, str(self))


def status(code: int, message: str) -> Json:
    """A `metav1.Status`."""
    reason = _REASONS.get(code, "InternalError")
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}


class Entry(NamedTuple):
    """A change in the log of a collection."""

    version: int
    old: Json | None
    new: Json | None


class Where(NamedTuple):
    """What a path names."""

    plural: str
    namespace: str
    name: str
    subresource: str


@dataclass
class Collection:
    """The objects of a kind, and the log of their changes."""

    objects: dict[tuple[str, str], Json] = field(default_factory=dict)
    log: list[Entry] = field(default_factory=list)
    compacted: int = 0
    """The newest version that was forgotten: watches go on from there at the earliest."""
    waiting: list["asyncio.Future[None]"] = field(default_factory=list)


Observer = Callable[[str, Json | None, Json | None, str], None]
"""Called after each change with the plural, the object before and after, and the one who made it."""


class ApiServer:
    """The server. `observer` sees each change as it takes place."""

    def __init__(self, clock: Clock, observer: Observer = lambda plural, old, new, who: None) -> None:
        self._clock = clock
        self._observer = observer
        self._collections: dict[str, Collection] = {}
        self._pages: dict[str, tuple[int, list[Json]]] = {}
        self._texts: dict[str | None, bytes] = {}
        """By resource version."""
        self._uids = 0
        self.version = 1000

    def collection(self, plural: str) -> Collection:
        """The objects of a kind."""
        return self._collections.setdefault(plural, Collection())

    def objects(self, plural: str) -> list[Json]:
        """All objects of a kind, not to be changed."""
        return list(self.collection(plural).objects.values())

    def handle(self, verb: str, path: str, query: Mapping[str, str], body: Any, content_type: str, who: str) -> Json:
        """Answer a request of `who`. Raises Refused."""
        where = parse(path)
        if verb == "GET":
            return self._get(where) if where.name else self._list(where, query)
        if verb == "POST":
            return self._create(where, body, who)
        if verb == "DELETE":
            return self._delete(where, body or {}, who)
        if verb == "PUT":
            return self._replace(where, body, who)
        if content_type.startswith("application/apply-patch"):
            return self._apply(where, body, query["fieldManager"], who)
        old = self._found(where)
        try:
            new = json_patch(old, body) if "json-patch" in content_type else merge_patch(old, body)
        except PatchError:
            raise Refused(422, PATCH_REFUSED) from None
        return self._update(where, old, new, who)

    def compact(self) -> None:
        """Forget all changes until now: watches that are behind must list again."""
        for found in self._collections.values():
            found.log.clear()
            found.compacted = self.version
        self._pages.clear()

    def force(self, plural: str, namespace: str, name: str, change: Callable[[Json], Json], who: str) -> bool:
        """Change an object whatever its schema says, as another version of the server would; whether it is there."""
        old = self.collection(plural).objects.get((namespace, name))
        if old is None:
            return False
        new = json.loads(json.dumps(change(old)))
        self._store(plural, old, _with_generation(old, new), who)
        return True

    def insert(self, plural: str, body: Json, who: str) -> None:
        """Put a new object, whatever its schema says."""
        self._store(plural, None, body, who)

    def events_since(self, plural: str, version: int, labels: Json, fields: Json, namespace: str) -> list[Json]:
        """The changes of a selection after a version. Raises Refused where they are forgotten."""
        found = self.collection(plural)
        if version < found.compacted:
            raise Refused(410, f"too old resource version: {version} ({found.compacted})")
        events = []
        for entry in reversed(found.log):
            if entry.version <= version:
                break
            event = _event(entry, labels, fields, namespace)
            if event is not None:
                events.append(event)
        return events[::-1]

    def text(self, found: Json) -> bytes:
        """An object, or a listing, as JSON."""
        version = found["metadata"].get("resourceVersion")
        if "items" in found:
            items = b", ".join(self.text(item) for item in found["items"])
            return b'{"metadata": ' + json.dumps(found["metadata"]).encode() + b', "items": [' + items + b"]}"
        if version not in self._texts:
            self._texts[version] = json.dumps(found).encode()
        return self._texts[version]

    async def changed(self, plural: str, seconds: float) -> bool:
        """Wait for a change of a collection, or so long; whether there was one."""
        found = self.collection(plural)
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found.waiting.append(waiter)
        try:
            async with asyncio.timeout(seconds):
                await waiter
        except TimeoutError:
            return False
        return True

    def _get(self, where: Where) -> Json:
        return self._found(where)

    def _found(self, where: Where) -> Json:
        found = self.collection(where.plural).objects.get((where.namespace, where.name))
        if found is None:
            raise Refused(404, f'{where.plural} "{where.name}" not found')
        return found

    def _list(self, where: Where, query: Mapping[str, str]) -> Json:
        token = query.get("continue", "")
        if token:
            if token not in self._pages:
                raise Refused(410, "The provided continue parameter is too old")
            version, items = self._pages.pop(token)
        else:
            labels, fields = selector(query.get("labelSelector", "")), selector(query.get("fieldSelector", ""))
            version = self.version
            items = [
                found
                for (namespace, _), found in sorted(self.collection(where.plural).objects.items())
                if where.namespace in ("", namespace) and matches(found, labels, fields)
            ]
        limit = int(query.get("limit", "0") or 0)
        metadata: Json = {"resourceVersion": str(version)}
        if limit and len(items) > limit:
            metadata["continue"] = f"{version}.{len(self._pages)}.{len(items)}"
            self._pages[metadata["continue"]] = (version, items[limit:])
            items = items[:limit]
        return {"kind": "List", "metadata": metadata, "items": items}

    def _create(self, where: Where, body: Json, who: str) -> Json:
        metadata = dict(body["metadata"])
        self._uids += 1
        name = metadata.pop("name", None) or f"{metadata.pop('generateName')}{self._uids:05d}"
        if (where.namespace, name) in self.collection(where.plural).objects:
            raise Refused(409, f'{where.plural} "{name}" already exists')
        metadata |= {
            "name": name,
            "uid": f"u{self._uids:05d}",
            "creationTimestamp": _second(self._clock),
            "generation": 1,
        }
        if where.namespace:
            metadata["namespace"] = where.namespace
        new = {**body, "metadata": metadata}
        if where.plural in CUSTOM:
            new.pop("status", None)
            new = with_defaults(_SCHEMAS[where.plural], new)
            _validate(where, new)
        if where.plural == "events":
            return {**new, "metadata": {**metadata, "resourceVersion": f"event-{self._uids}"}}
        return self._store(where.plural, None, new, who)

    def _replace(self, where: Where, body: Json, who: str) -> Json:
        old = self._found(where)
        version = body["metadata"].get("resourceVersion")
        if version not in (None, old["metadata"]["resourceVersion"]):
            raise Refused(409, f'Operation cannot be fulfilled on {where.plural} "{where.name}": it was modified')
        if body["metadata"].get("uid", old["metadata"]["uid"]) != old["metadata"]["uid"]:
            raise Refused(409, f'Operation cannot be fulfilled on {where.plural} "{where.name}": another uid')
        return self._update(where, old, body, who)

    def _update(self, where: Where, old: Json, new: Json, who: str) -> Json:
        """What of a write counts: the subresource's part, with the server's own fields as they are."""
        if where.subresource == "status":
            new = {**old, "status": new.get("status", {})}
        elif where.plural in CUSTOM and "status" in old:
            new = {**new, "status": old["status"]}
        kept = {
            key: old["metadata"][key]
            for key in ("uid", "name", "namespace", "creationTimestamp", "generation", "deletionTimestamp")
            if key in old["metadata"]
        }
        new = {**new, "metadata": {**new["metadata"], **kept}}
        if where.plural in CUSTOM:
            _validate(where, new, old)
        added = set(new["metadata"].get("finalizers") or ()) - set(old["metadata"].get("finalizers") or ())
        if added and "deletionTimestamp" in old["metadata"]:
            raise Refused(422, "metadata.finalizers: Forbidden: no new finalizers can be added while it is deleted")
        return self._store(where.plural, old, _with_generation(old, new), who)

    def _apply(self, where: Where, body: Json, manager: str, who: str) -> Json:
        entry = {"manager": manager, "fieldsV1": {"f:spec": {f"f:{key}": {} for key in body.get("spec", {})}}}
        old = self.collection(where.plural).objects.get((where.namespace, where.name))
        if old is None:
            made = {**body, "metadata": {**body["metadata"], "name": where.name, "managedFields": [entry]}}
            return self._create(where, made, who)
        new = merge_patch(old, body)
        others = [other for other in old["metadata"].get("managedFields", []) if other["manager"] != manager]
        new["metadata"] = {**new["metadata"], "managedFields": [*others, entry]}
        return self._update(where, old, new, who)

    def _delete(self, where: Where, body: Json, who: str) -> Json:
        old = self._found(where)
        for key, value in (body.get("preconditions") or {}).items():
            if old["metadata"][key] != value:
                raise Refused(409, f"Precondition failed: {key}: {value}, but {old['metadata'][key]}")
        if old["metadata"].get("finalizers"):
            if "deletionTimestamp" in old["metadata"]:
                return old
            metadata = old["metadata"]
            metadata = {**metadata, "deletionTimestamp": _second(self._clock), "generation": metadata["generation"] + 1}
            return self._store(where.plural, old, {**old, "metadata": metadata}, who)
        self._store(where.plural, old, None, who)
        return old

    def _store(self, plural: str, old: Json | None, new: Json | None, who: str) -> Json:
        if new is not None and old == new:
            return old
        found = self.collection(plural)
        self.version += 1
        if new is not None:
            gone = "deletionTimestamp" in new["metadata"] and not new["metadata"].get("finalizers")
            new = {**new, "metadata": {**new["metadata"], "resourceVersion": str(self.version)}}
            key = (new["metadata"].get("namespace", ""), new["metadata"]["name"])
            if gone:
                del found.objects[key]
            else:
                found.objects[key] = new
        else:
            assert old is not None
            gone, new = True, {**old, "metadata": {**old["metadata"], "resourceVersion": str(self.version)}}
            del found.objects[(old["metadata"].get("namespace", ""), old["metadata"]["name"])]
        found.log.append(
            Entry(self.version, old, None if gone else new) if not gone else Entry(self.version, new, None)
        )
        for waiter in found.waiting:
            if not waiter.done():
                waiter.set_result(None)
        found.waiting.clear()
        self._observer(plural, old, None if gone else new, who)
        return new


def parse(path: str) -> Where:
    """What a path names."""
    parts = path.strip("/").split("/")
    parts = parts[2:] if parts[0] == "api" else parts[3:]
    namespace = ""
    if len(parts) > 2 and parts[0] == "namespaces":
        namespace, parts = parts[1], parts[2:]
    plural, name, subresource = (*parts, "", "")[:3]
    return Where(plural, namespace, name, subresource)


def _event(entry: Entry, labels: Json, fields: Json, namespace: str) -> Json | None:
    def selected(found: Json | None) -> bool:
        return (
            found is not None
            and namespace in ("", found["metadata"].get("namespace", ""))
            and matches(found, labels, fields)
        )

    before, after = selected(entry.old), selected(entry.new)
    if after:
        return {"type": "MODIFIED" if before else "ADDED", "object": entry.new}
    if before and entry.old is not None:
        metadata = {**entry.old["metadata"], "resourceVersion": str(entry.version)}
        return {"type": "DELETED", "object": {**entry.old, "metadata": metadata}}
    return None


def _with_generation(old: Json, new: Json) -> Json:
    if old.get("spec") == new.get("spec"):
        return new
    return {**new, "metadata": {**new["metadata"], "generation": old["metadata"]["generation"] + 1}}


def _validate(where: Where, new: Json, old: Json | None = None) -> None:
    """As the schema does; what was invalid before may stay so (ratcheting)."""
    try:
        CUSTOM[where.plural].model_validate(new)
    except ValidationError as error:
        if old is not None and not _valid(where, old):
            return
        first = error.errors()[0]
        raise Refused(422, f'{where.plural} "{where.name}" is invalid: {first["loc"]}: {first["msg"]}') from None


def _valid(where: Where, document: Json) -> bool:
    try:
        CUSTOM[where.plural].model_validate(document)
    except ValidationError:
        return False
    return True


def _second(clock: Clock) -> str:
    return clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")
