"""What is still to be removed from stores: a bounded list in a ConfigMap, which outlives every operator.

Two kinds of entries: the files of a deleted job whose store had failed for too long, and what an attempt that has lost
its job may still add, to be swept when its runner must have stopped. An entry that cannot be read is left as it is,
counted and logged; all others go on.
"""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Final

from prometheus_client import Gauge
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel

from videojob.controller.stores import Prefix
from videojob.kube.client import CONFIG_MAPS, KubeClient, KubeError

logger = logging.getLogger(__name__)

ORPHANS: Final = "videojob-orphans"


class Orphan(BaseModel):
    """An entry of the list: JSON, so that a person can read and write it."""

    # A key that is not known may change what the others mean: such an entry counts as unreadable.
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, frozen=True, extra="forbid", hide_input_in_errors=True
    )

    namespace: str
    uid: str
    pool: str
    store_url: str
    keep_output: bool = False
    """Whether the finished video stays; of a removal."""
    attempt: Annotated[int | None, Field(ge=1)] = None
    """Sweep what this attempt and those before it have left; None: remove all."""
    not_before: AwareDatetime | None = None

    @property
    def prefix(self) -> Prefix:
        """Where the files are."""
        return Prefix(self.namespace, self.uid, self.pool, self.store_url)

    @property
    def key(self) -> str:
        """In the ConfigMap. A job may have files in several stores."""
        store = hashlib.sha256(self.store_url.encode()).hexdigest()[:8]
        return f"{self.uid}.{store}" + ("" if self.attempt is None else f".{self.attempt}")

    def due(self, now: datetime) -> bool:
        """Whether its time has come."""
        return self.not_before is None or self.not_before <= now


@dataclass(frozen=True)
class OrphanMetrics:
    """What dashboards see of the list."""

    removals: Gauge
    """Deleted jobs whose files are still in a store."""
    sweeps: Gauge
    """Prefixes that are swept once the runner that has lost the job must have stopped."""
    unreadable: Gauge
    """Entries that cannot be read."""


class Orphans:
    """The list. Every method raises KubeError."""

    def __init__(self, client: KubeClient, namespace: str, limit: int, metrics: OrphanMetrics) -> None:
        """Holds at most `limit` entries of each kind; what cannot be read counts for both."""
        self._client = client
        self._namespace = namespace
        self._limit = limit
        self._metrics = metrics
        self._reported: set[tuple[str, str]] = set()

    async def read(self) -> dict[str, Orphan]:
        """The entries that can be read, by their keys."""
        return self._readable(await self._data())

    async def add(self, orphan: Orphan) -> bool:
        """Add an entry, or replace that of the same files; whether there was room."""
        data = await self._data()
        entries = self._readable(data)
        alike = sum((entry.attempt is None) == (orphan.attempt is None) for entry in entries.values())
        if orphan.key not in data and alike + len(data) - len(entries) >= self._limit:
            return False
        await self._write({orphan.key: orphan.model_dump_json(by_alias=True, exclude_none=True)})
        self._count({**entries, orphan.key: orphan}, len(data) - len(entries))
        return True

    async def remove(self, key: str) -> None:
        """Remove an entry."""
        await self._write({key: None})

    def _readable(self, data: Mapping[str, str]) -> dict[str, Orphan]:
        entries, unreadable = {}, set()
        for key, text in data.items():
            try:
                entries[key] = Orphan.model_validate_json(text)
            except ValidationError as error:
                unreadable.add((key, text))
                self._report(key, text, error)
        self._reported = unreadable
        self._count(entries, len(unreadable))
        return entries

    def _report(self, key: str, text: str, error: ValidationError) -> None:
        if (key, text) in self._reported:
            return
        wrong = "; ".join(f"{'.'.join(map(str, it['loc'])) or 'the entry'}: {it['msg']}" for it in error.errors())
        logger.error(
            "The entry %s of ConfigMap %s cannot be read (%s). It is left alone: correct it, or remove the files that "
            "it names and then the entry.",
            *(key, ORPHANS, wrong),
        )

    def _count(self, entries: Mapping[str, Orphan], unreadable: int) -> None:
        sweeps = sum(entry.attempt is not None for entry in entries.values())
        self._metrics.sweeps.set(sweeps)
        self._metrics.removals.set(len(entries) - sweeps)
        self._metrics.unreadable.set(unreadable)

    async def _data(self) -> dict[str, str]:
        try:
            found = await self._client.get(CONFIG_MAPS, ORPHANS, self._namespace)
        except KubeError as error:
            if error.not_found:
                return {}
            raise
        return dict(found.get("data") or {})

    async def _write(self, data: Mapping[str, str | None]) -> None:
        try:
            await self._client.merge_patch(CONFIG_MAPS, ORPHANS, {"data": dict(data)}, self._namespace)
        except KubeError as error:
            if not error.not_found:
                raise
            metadata = {"name": ORPHANS, "namespace": self._namespace}
            body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": dict(data)}
            await self._client.create(CONFIG_MAPS, body, self._namespace)
