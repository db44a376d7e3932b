"""Arithmetic of chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from videojob.chunks import ChunkLayout, memory_chunks, tail_chunks

FAR = ChunkLayout(first_latents=1, latents=3, frames_per_latent=4)

layouts = st.builds(ChunkLayout, st.integers(1, 9), st.integers(1, 9), st.integers(1, 8))
indices = st.integers(0, 60)


@pytest.mark.parametrize(
    ("frames", "chunks", "kept_of_last"),
    [
        pytest.param(1, 1, 1, id="a single frame is the first latent"),
        pytest.param(2, 2, 1, id="one frame more needs a second chunk, of which one frame is kept"),
        pytest.param(13, 2, 12, id="the second chunk is full"),
        pytest.param(14, 3, 1, id="and one more frame opens the third"),
        pytest.param(64, 7, 3, id="four seconds at 16 fps"),
    ],
)
def test_a_video_is_cut_into_chunks(frames: int, chunks: int, kept_of_last: int) -> None:
    assert FAR.chunks_for(frames) == chunks
    assert FAR.kept_frames(chunks - 1, frames) == kept_of_last


@given(layouts, st.integers(1, 5000))
def test_the_kept_frames_of_all_chunks_are_the_video(layout: ChunkLayout, frames: int) -> None:
    chunks = layout.chunks_for(frames)
    kept = [layout.kept_frames(index, frames) for index in range(chunks)]
    assert sum(kept) == frames
    assert all(kept), "no chunk is made for nothing"
    assert kept[:-1] == [layout.chunk_frames(index) for index in range(chunks - 1)], "only the last one is cut"


@given(layouts, indices, st.integers(0, 40), st.integers(1, 40))
def test_memory_is_the_beginning_and_the_recent_past(layout: ChunkLayout, index: int, sink: int, window: int) -> None:
    memory = memory_chunks(index, layout, sink, window)
    assert list(memory) == sorted(set(memory))
    assert all(0 <= chunk < index for chunk in memory)
    covered = sum(layout.chunk_latents(chunk) for chunk in memory)
    assert covered <= sink + max(layout.first_latents, layout.latents) + window, "bounded, however long the video"
    if layout.first_latent(index) <= window:
        assert memory == tuple(range(index)), "what fits in the window is remembered whole"


@given(layouts, indices, st.integers(1, 40))
def test_the_tail_covers_what_the_decoder_needs_and_no_chunk_more(layout: ChunkLayout, index: int, need: int) -> None:
    tail = tail_chunks(index, layout, need)
    assert tail == tuple(range(index - len(tail), index))
    covered = sum(layout.chunk_latents(chunk) for chunk in tail)
    assert covered >= min(need, layout.first_latent(index))
    assert not tail or covered - layout.chunk_latents(tail[0]) < need
