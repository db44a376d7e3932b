"""What was committed before: by an attempt before this one, by one after it, or by a write whose answer was lost.

Whoever it was, the job goes on only from what is in the store.
"""

import hashlib

from videojob.runner.hold import Permission, Standing
from videojob.runner.status import JobLostError, Owner, StatusWriter
from videojob.store import Entry, StoredObject
from videojob.triton.contract import ChunkError, ErrorCode


class Adopting:
    """The records of others, as one attempt finds them."""

    def __init__(self, owner: Owner, permission: Permission, status: StatusWriter) -> None:
        self._owner = owner
        self._permission = permission
        self._status = status

    async def adopt(self, record: Entry, theirs: StoredObject, mine: bytes) -> None:
        """Go on from a record of others. Raises JobLostError, and ChunkError where they have made something else."""
        await self.check(record)
        if theirs.sha256 != hashlib.sha256(mine).hexdigest():
            raise ChunkError(
                ErrorCode.OUT_OF_SEQUENCE,
                f"{theirs.key} was committed before with other bytes; the job goes on from those.",
            )

    async def check(self, record: Entry) -> None:
        """Raises JobLostError where a later attempt has the job.

        Cut off, its record is proof enough. Else the API server knows better: it may be an older one, from a backup.
        """
        if record.attempt <= self._owner.attempt:
            return
        if self._permission.standing is Standing.CUT_OFF or not await self._status.owned():
            raise JobLostError(f"attempt {record.attempt} goes on with it")
