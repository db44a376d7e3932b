"""Watches the store of a job, so that a test sees what was ever written, though success removes most of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.system import System


@dataclass
class Seen:
    """What a job's folder ever held."""

    files: set[str] = field(default_factory=set)
    records: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """The different contents of each piece's record, in order: one each, if the log is write-once."""
    units: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Likewise of each unit's record."""

    def made(self, attempt: int) -> set[int]:
        """Chunks of which an attempt has put a segment."""
        folder = f"attempts/{attempt}/"
        return {
            int(name.removeprefix(folder).partition("-")[0])
            for name in self.files
            if name.startswith(folder) and name.endswith(".mp4")
        }


@asynccontextmanager
async def recorded(system: System, name: str) -> AsyncIterator[Seen]:
    """Record the job's folder as long as the block runs."""
    seen, uid = Seen(), (await system.job(name)).metadata.uid

    def look() -> None:
        seen.files |= system.files(uid)
        for log, kept in (("segments", seen.records), ("latents", seen.units)):
            for index, record in system.records(uid, log).items():
                known = kept.setdefault(index, [])
                if record not in known:
                    known.append(record)

    async def watch() -> None:
        while True:
            look()
            await asyncio.sleep(0.01)

    task = asyncio.create_task(watch())
    try:
        yield seen
        look()
    finally:
        task.cancel()
