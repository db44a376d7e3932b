"""The same model in a bare diffusers loop, in a process of its own that stays warm.

    python -m tests.bench.bare_loop SUBJECT MODEL STORE

One order a line comes in, one answer a line goes out, both as JSON. The clock of a video runs from the order to the
MP4 in the folder STORE. Frames go through the encoder that the system uses, with the same settings, in one piece.
"""

import asyncio
import contextlib
import hashlib
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from time import perf_counter
from typing import Any

from dev.processes import die_with_parent
from dev.supervisor import REPOSITORY
from tests.bench.subjects import SUBJECTS

SECONDS = 300.0
"""After which a video counts as never coming."""


@dataclass(frozen=True)
class Order:
    """A video of the subject that the loop was started with."""

    prompt: str
    seed: int
    threads: int


@dataclass(frozen=True)
class Made:
    """What a video took, in seconds, and what it is."""

    wall: float
    stages: dict[str, float]
    frames: int
    sha256: str
    """Of the MP4 that the system would make of these frames: a segment for each chunk, joined."""


class BareLoop:
    """The loop, in its own process, as the benchmark talks to it."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.pid = process.pid
        self._process = process
        self._log = log

    async def make(self, order: Order) -> Made:
        """Make a video and wait for it."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(asdict(order)).encode() + b"\n")
        async with asyncio.timeout(SECONDS):
            line = await self._process.stdout.readline()
        assert line, f"the bare loop ended with status {await self._process.wait()}; see {self._log}"
        return Made(**json.loads(line))


@contextlib.asynccontextmanager
async def bare_loop(subject: str, model: Path, store: Path, log: Path) -> AsyncIterator[BareLoop]:
    """A running bare loop."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tests.bench.bare_loop", subject, str(model), str(store)),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=output,
            preexec_fn=die_with_parent(),
        )
    try:
        yield BareLoop(process, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def main() -> None:
    """The loop itself. What only it needs is imported here: the benchmark's own process stays without torch."""
    import diffusers  # noqa: PLC0415
    import numpy as np  # noqa: PLC0415
    import torch  # noqa: PLC0415

    from videojob.media import encode_segment, remux  # noqa: PLC0415
    from videojob.models.noise import Noise  # noqa: PLC0415

    subject = SUBJECTS[sys.argv[1]]
    model, store = map(Path, sys.argv[2:])
    store.mkdir(exist_ok=True)
    pipeline: Any = getattr(diffusers, subject.pipeline).from_pretrained(
        model, dtype=torch.float32, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    channels = pipeline.transformer.config.in_channels

    spent: defaultdict[str, float] = defaultdict(float)

    def timed(stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def with_clock(*args: Any, **kwargs: Any) -> Any:
            began = perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                spent[stage] += perf_counter() - began

        return with_clock

    def shot(order: Order, number: int, prompt: str) -> Any:
        size = subject.height // 8, subject.width // 8
        units = subject.plan.units[subject.plan.shots[number].units.start : subject.plan.shots[number].units.stop]
        noise = [Noise(order.seed, number, unit.index)((1, channels, len(unit.latents), *size)) for unit in units]
        return pipeline(
            prompt,
            height=subject.height,
            width=subject.width,
            num_frames=subject.frames,
            num_inference_steps=subject.steps,
            latents=torch.cat(noise, dim=2),
            output_type="np",
            **subject.arguments(),
        ).frames[0]

    def whole_video(order: Order) -> Any:
        prompts = enumerate(subject.prompts(order.prompt))
        return np.concatenate([shot(order, number, prompt) for number, prompt in prompts])

    def to_pixels(frames: Any) -> Any:
        return (frames * 255).round().astype(np.uint8)

    def encode(frames: Any, path: Path) -> None:
        remux([encode_segment(frames, Fraction(subject.fps), 0)], path, Fraction(subject.fps))

    def as_the_system_does(frames: Any) -> str:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "video.mp4")
            pieces = (piece.frames for piece in subject.plan.pieces)
            segments = (encode_segment(frames[at.start : at.stop], Fraction(subject.fps), at.start) for at in pieces)
            remux(segments, path, Fraction(subject.fps))
            return hashlib.sha256(path.read_bytes()).hexdigest()

    pipeline.encode_prompt = timed("text", pipeline.encode_prompt)
    pipeline.vae.decode = timed("decode", pipeline.vae.decode)
    pipeline.video_processor.postprocess_video = timed("decode", pipeline.video_processor.postprocess_video)
    to_pixels = timed("decode", to_pixels)
    encode = timed("encode", encode)

    def make(order: Order) -> Made:
        torch.set_num_threads(order.threads)
        spent.clear()
        began = perf_counter()
        with torch.inference_mode():
            video = whole_video(order)
        denoise = perf_counter() - began - sum(spent.values())
        frames = to_pixels(video)
        encode(frames, store / f"{order.seed}-{order.threads}.mp4")
        wall = perf_counter() - began
        return Made(wall, {**spent, "denoise": denoise}, len(frames), as_the_system_does(frames))

    answers = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            print(json.dumps(asdict(make(Order(**json.loads(line))))), file=answers, flush=True)


if __name__ == "__main__":
    main()
