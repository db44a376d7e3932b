"""Shared memory that Triton writes frames to, where it runs on the same machine; else frames come through gRPC.

Whether the machine is shared is found out by trying: the server can map a region only if it sees the same file. Names
carry a hash of pool and replica and a part that is unique to the process, so a runner that starts can clean up after
one that was killed and never shares a region with a zombie. A server that was killed leaves nothing: its mappings go
with it. Memory is reserved before it is used, because writing to a full /dev/shm kills the writer. Triton's stages pass
frames to each other in that same memory, and a chunk fails where they find none: so some is left for them.
"""

import asyncio
import errno
import hashlib
import logging
import mmap
import os
import secrets
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from videojob.runner.triton import Region, Triton, TritonGoneError, TritonRefusedError

log = logging.getLogger(__name__)

SHM = Path("/dev/shm")  # noqa: S108 - where POSIX shared memory is, by definition


TRITON_CHUNKS = 2
"""Chunks that there is always memory for in Triton's stages. Measured: 1.5 times the frames of the largest chunk."""
TRITON_BYTES = 32 << 20
"""And for what else the stages pass to each other: at least 1 MiB a stage of each model."""


class Buffer:
    """Room for the frames of one chunk: a region, or nothing where they come through gRPC."""

    def __init__(self, region: Region | None) -> None:
        self.region = region
        self._memory: mmap.mmap | None = None
        if region is not None:
            descriptor = os.open(SHM / region.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, region.size)
                self._memory = mmap.mmap(descriptor, region.size)
            except OSError:
                (SHM / region.name).unlink(missing_ok=True)
                raise
            finally:
                os.close(descriptor)

    def frames(self, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        """What the server wrote, uint8 `[F, H, W, 3]`: a view, valid until the buffer is used again."""
        if self._memory is None:
            raise ValueError("the frames came through gRPC")
        return np.ndarray(shape, np.uint8, self._memory)

    def unlink(self) -> None:
        """Take the region's name away; the memory goes with its last mapping."""
        if self.region is not None:
            (SHM / self.region.name).unlink(missing_ok=True)


class FrameBuffers:
    """The replica's buffers. A job borrows as many as it has chunks in flight and in the encoder."""

    def __init__(self, triton: Triton, pool: str, replica: str) -> None:
        self._triton = triton
        self._prefix = f"videojob-frames-{hashlib.sha256(f'{pool}/{replica}'.encode()).hexdigest()[:12]}-"
        self._own = f"{self._prefix}{secrets.token_hex(6)}-"
        self._made = 0
        self._free: list[Buffer] = []
        self._all: dict[str, Buffer] = {}
        self._warned = False

    async def borrow(self, count: int, size: int) -> list[Buffer]:
        """`count` buffers of at least `size` bytes each, which the server knows. Raises TritonGoneError.

        A buffer that is too small is replaced, so each grows to the largest chunk it ever held.
        """
        borrowed: list[Buffer] = []
        try:
            for _ in range(count):
                borrowed.append(await self._take(size))
            await self._register(borrowed)
        except (OSError, TritonRefusedError) as error:
            if not self._warned:
                log.warning("Frames come through gRPC, because Triton and the runner share no memory: %s", error)
                self._warned = True
            for buffer in borrowed:
                await self.retire(buffer)
            return [Buffer(None) for _ in range(count)]
        except BaseException:
            self.give_back(borrowed)
            raise
        return borrowed

    def give_back(self, buffers: list[Buffer]) -> None:
        """The server is done with them."""
        self._free += [buffer for buffer in buffers if buffer.region is not None]

    async def retire(self, buffer: Buffer) -> None:
        """Never use it again. The server may still write to it: then it keeps the region until the next sweep."""
        if buffer.region is None:
            return
        buffer.unlink()
        self._all.pop(buffer.region.name, None)
        await self._unregister(buffer.region.name)

    async def sweep(self) -> None:
        """Remove what a runner that was killed has left, here and on the server. Raises nothing."""
        self._unlink_stale()
        try:
            for name in await self._triton.registered():
                if name.startswith(self._prefix) and name not in self._all:
                    await self._unregister(name)
        except (TritonGoneError, TritonRefusedError) as error:
            log.debug("Triton's regions were not swept: %s", error)

    async def close(self) -> None:
        """Remove every region."""
        for buffer in tuple(self._all.values()):
            await self.retire(buffer)

    async def _take(self, size: int) -> Buffer:
        while self._free:
            buffer = self._free.pop()
            if buffer.region is not None and buffer.region.size >= size:
                return buffer
            await self.retire(buffer)
        self._leave_room(size)
        buffer = Buffer(region := Region(f"{self._own}{self._made}", size))
        self._made += 1
        self._all[region.name] = buffer
        return buffer

    def _leave_room(self, size: int) -> None:
        """Raises OSError where one more buffer would leave Triton's stages too little, used by them yet or not."""
        status = os.statvfs(SHM)
        total = status.f_blocks * status.f_frsize
        held = sum(buffer.region.size for buffer in self._all.values() if buffer.region is not None)
        if held + size + TRITON_CHUNKS * size + TRITON_BYTES > total:
            raise OSError(errno.ENOSPC, f"{SHM} has {total} bytes, too few for the frames of {size} bytes a chunk")

    async def _register(self, buffers: list[Buffer]) -> None:
        known = await self._triton.registered()
        for buffer in buffers:
            if buffer.region is not None and buffer.region.name not in known:
                await self._triton.register(buffer.region)

    def _unlink_stale(self) -> None:
        for path in SHM.glob(f"{self._prefix}*"):
            if path.name not in self._all:
                path.unlink(missing_ok=True)

    async def _unregister(self, name: str) -> None:
        try:
            async with asyncio.timeout(2):
                await self._triton.unregister(name)
        except (TritonGoneError, TritonRefusedError, TimeoutError) as error:
            log.debug("Triton still holds region %s: %s", name, error)
