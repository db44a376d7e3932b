"""Listings of collections of any size: no more of one is in memory than a page."""

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from videojob.kube.answers import AnswerError, Json
from videojob.kube.client import ResourceKind

PAGE = 250
"""Objects. A page is decoded without a pause."""
PART = 25
"""Objects that are taken in without a pause: each takes a good part of a millisecond, and the loop stands still."""


class Lists(Protocol):
    """A client, as far as it lists."""

    async def list(self, kind: ResourceKind, namespace: str | None = None, **selectors: str) -> Json:
        """A collection. Raises KubeError."""


async def pages(client: Lists, kind: ResourceKind, namespace: str | None) -> AsyncIterator[tuple[list[Json], Json]]:
    """The items of each page, a part at a time, and its metadata; all are of one version of the collection.

    Others may run between two parts. Raises KubeError, with code 410 where it takes so long that the version is no
    longer kept.
    """
    token = ""
    while True:
        selectors = {"limit": str(PAGE)} | ({"continue": token} if token else {})
        listing = await client.list(kind, namespace, **selectors)
        items, metadata = listing.get("items") or [], listing.get("metadata") or {}
        if not isinstance(items, list) or not isinstance(metadata, dict):
            raise AnswerError(f"the listing of {kind.plural} has no items or no metadata")
        for start in range(0, max(len(items), 1), PART):
            yield items[start : start + PART], metadata
            await asyncio.sleep(0)
        token = str(metadata.get("continue") or "")
        if not token:
            return
