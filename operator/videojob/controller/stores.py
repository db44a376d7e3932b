"""The object stores of pools, as far as the operator uses them: to remove the files of deleted jobs."""

from collections.abc import Mapping
from typing import Any

from videojob.controller.files import StoreFailure


async def clean(url: str, options: Mapping[str, Any], namespace: str, uid: str, keep_output: bool) -> None:
    """Remove a job's files. Raises StoreFailure."""
    # Imported when first needed: most operators' memory never holds a client of a store.
    from videojob.store import JobStore, StoreError, open_store  # noqa: PLC0415

    try:
        await JobStore(open_store(url, **options), namespace, uid).purge(keep_output=keep_output)
    except StoreError as error:
        raise StoreFailure(str(error)) from error
