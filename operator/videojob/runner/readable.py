"""Objects as they were last read: one that cannot be read is not absent, what was last read of it stays in force."""

import logging
from typing import Generic, TypeVar

from pydantic import ValidationError

from videojob.api.gpupool import GPUPool
from videojob.api.videomodel import VideoModel
from videojob.kube.client import Change, Json, Listing, ResourceKind
from videojob.runner.metrics import RunnerMetrics

log = logging.getLogger(__name__)

T = TypeVar("T", GPUPool, VideoModel)


class Readable(Generic[T]):
    """The objects of one kind, by name, kept by what its watch shows."""

    def __init__(self, kind: ResourceKind, type_: type[T], metrics: RunnerMetrics) -> None:
        self._kind = kind
        self._type: type[T] = type_
        self._metrics = metrics
        self.objects: dict[str, T] = {}
        """As they were last read."""
        self.unreadable: dict[str, str] = {}
        """Names of those whose newest version cannot be read, and that version."""

    def see(self, event: Listing | Change) -> None:
        """Take over what the watch shows."""
        if isinstance(event, Listing):
            present = {item["metadata"]["name"] for item in event.items}
            for name in [name for name in {**self.objects, **self.unreadable} if name not in present]:
                self._forget(name)
            for item in event.items:
                self._read(item)
        elif event.type == "DELETED":
            self._forget(event.object["metadata"]["name"])
        else:
            self._read(event.object)

    def _read(self, item: Json) -> None:
        meta = item["metadata"]
        name, version = meta["name"], meta.get("resourceVersion", "")
        try:
            self.objects[name] = self._type.model_validate(item)
            self.unreadable.pop(name, None)
        except ValidationError as error:
            known = self.objects.get(name)
            if known is not None and known.metadata.uid != meta.get("uid"):
                del self.objects[name]
            if self.unreadable.get(name) == version:
                return
            self.unreadable[name] = version
            self._metrics.unreadable(self._kind.plural)
            what = "is not used" if name not in self.objects else "is used as it was last read"
            log.warning("%s of %s cannot be read, and %s: %s", name, self._kind.plural, what, error)

    def _forget(self, name: str) -> None:
        self.objects.pop(name, None)
        self.unreadable.pop(name, None)
