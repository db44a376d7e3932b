"""What a sequence is started with after a number of committed chunks."""

import pytest

from videojob.chunks import ChunkLayout
from videojob.runner.resume import ResumePoint, resume_at

LAYOUT = ChunkLayout(first_latents=1, latents=3, frames_per_latent=4)


@pytest.mark.parametrize(
    ("committed", "memory", "tail"),
    [
        pytest.param(0, (), (), id="a new job brings nothing"),
        pytest.param(1, (0,), (0,), id="one chunk"),
        pytest.param(3, (0, 1, 2), (0, 1, 2), id="sink and window meet"),
        pytest.param(9, (0, 7, 8), tuple(range(9)), id="sink, then the window; the tail reaches further"),
        pytest.param(20, (0, 18, 19), tuple(range(9, 20)), id="33 latents are 11 chunks"),
    ],
)
def test_resume_at(committed: int, memory: tuple[int, ...], tail: tuple[int, ...]) -> None:
    resume = resume_at(committed, LAYOUT, sink_latents=1, window_latents=6, tail_latents=33)

    assert resume == ResumePoint(committed, memory, tail)


def test_what_both_need_is_read_once() -> None:
    assert ResumePoint(20, (0, 18, 19), (17, 18, 19)).needed == (0, 17, 18, 19)
