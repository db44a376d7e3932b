"""Shared memory that nobody leaves behind, on a real Triton."""

import os
import subprocess
import sys
from collections.abc import Callable

import pytest

from videojob.runner.buffers import SHM, TRITON_BYTES, Buffer, FrameBuffers
from videojob.runner.triton import Region, Triton

SIZE = 1 << 16
MEBI = 1 << 20
AS_ROOT = [] if os.geteuid() == 0 else ["--map-root-user"]
MOUNT = 'mount -t tmpfs -o size="$1" tmpfs /dev/shm && shift && exec "$@"'
BORROW = """
import asyncio, os
from videojob.runner.buffers import FrameBuffers

class Server:
    async def registered(self):
        return set()
    async def register(self, region):
        # As the server does: it writes to every page.
        with open("/dev/shm/" + region.name, "r+b") as file:
            file.write(bytes(region.size))
    async def unregister(self, name):
        pass

async def main():
    buffers = FrameBuffers(Server(), "pool", "replica")
    borrowed = await buffers.borrow(3, 1 << 20)
    print(sum(buffer.region is not None for buffer in borrowed))
    await buffers.close()
    print(len(os.listdir("/dev/shm")))

asyncio.run(main())
"""


@pytest.fixture
def make(triton: Triton, request: pytest.FixtureRequest) -> Callable[[], FrameBuffers]:
    """Buffers of one replica; each call is another process of it."""
    return lambda: FrameBuffers(triton, "pool", request.node.name)


def names(buffers: list[Buffer]) -> set[str]:
    return {buffer.region.name for buffer in buffers if buffer.region is not None}


async def test_borrowed_buffers_are_known_to_the_server(make: Callable[[], FrameBuffers], triton: Triton) -> None:
    buffers = make()

    borrowed = await buffers.borrow(3, SIZE)

    assert len(names(borrowed)) == 3
    assert names(borrowed) <= await triton.registered()
    assert all((SHM / name).stat().st_size == SIZE for name in names(borrowed))
    await buffers.close()
    assert not names(borrowed) & await triton.registered()
    assert not any((SHM / name).exists() for name in names(borrowed))


async def test_buffers_are_used_again_until_one_is_too_small(make: Callable[[], FrameBuffers]) -> None:
    buffers = make()
    first = await buffers.borrow(2, SIZE)
    buffers.give_back(first)

    smaller = await buffers.borrow(2, SIZE // 2)
    buffers.give_back(smaller)
    larger = await buffers.borrow(2, SIZE * 2)

    assert names(smaller) == names(first)
    assert not names(larger) & names(first)
    assert not any((SHM / name).exists() for name in names(first))
    await buffers.close()


async def test_a_runner_that_starts_removes_what_a_killed_one_left(
    make: Callable[[], FrameBuffers], triton: Triton
) -> None:
    left = names(await make().borrow(2, SIZE))
    buffers = make()
    own = names(await buffers.borrow(1, SIZE))

    await buffers.sweep()

    assert not left & await triton.registered()
    assert not any((SHM / name).exists() for name in left)
    assert own <= await triton.registered()
    await buffers.close()


async def test_regions_of_other_replicas_stay(make: Callable[[], FrameBuffers], triton: Triton) -> None:
    other = FrameBuffers(triton, "pool", "another-replica")
    kept = names(await other.borrow(1, SIZE))

    await make().sweep()

    assert kept <= await triton.registered()
    await other.close()


async def test_a_server_that_was_restarted_learns_its_regions_again(
    make: Callable[[], FrameBuffers], triton: Triton
) -> None:
    buffers = make()
    borrowed = await buffers.borrow(1, SIZE)
    buffers.give_back(borrowed)
    for name in names(borrowed):
        await triton.unregister(name)  # As a restart does.

    assert names(await buffers.borrow(1, SIZE)) == names(borrowed)
    assert names(borrowed) <= await triton.registered()
    await buffers.close()


@pytest.mark.parametrize(
    ("mebibytes", "shared"),
    [
        pytest.param(TRITON_BYTES // MEBI + 5, True, id="three buffers and two for Triton"),
        pytest.param(TRITON_BYTES // MEBI + 4, False, id="too little for Triton beside them"),
        pytest.param(2, False, id="too little for the buffers"),
    ],
)
def test_a_shared_memory_that_is_too_small_is_left_to_triton(mebibytes: int, shared: bool) -> None:
    """As of a pod with an emptyDir that is too small: frames come through gRPC, and nobody is killed.

    The folder is a real one of that size, mounted for a process of its own, which asks for three buffers of 1 MiB.
    """
    ended = subprocess.run(
        ["unshare", "--mount", *AS_ROOT, "sh", "-c", MOUNT, "sh", f"{mebibytes}m", sys.executable, "-c", BORROW],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    regions, left = ended.stdout.split()
    assert regions == ("3" if shared else "0")
    assert left == "0"


def test_memory_that_is_not_there_is_refused_before_it_is_written_to() -> None:
    name = "videojob-frames-test-too-large"

    with pytest.raises(OSError, match=r"No space|Cannot allocate|too large"):
        Buffer(Region(name, 1 << 50))

    assert not (SHM / name).exists()
