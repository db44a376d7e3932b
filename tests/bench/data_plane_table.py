"""What the data-plane benchmark prints."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

from tests.bench.bare_loop import Made
from tests.bench.subjects import Subject
from tests.bench.through_system import Done

T = TypeVar("T", Done, Made)

CAUSES = 3
"""Of a missed target that are named."""

OTHERS = "others on this machine"
PIECES = {
    "queue": "creation to first request",
    "text": "text encoder",
    "denoise": "denoiser",
    "decode": "decoding that denoising does not hide",
    "transport": "between stages: transport, waiting",
    "encode": "encoding (of the last chunk)",
    "commit": "last chunk into the store",
    "output": "segments to MP4, into the store",
    "status": "tidying, status, watch",
}


@dataclass(frozen=True)
class Run(Generic[T]):
    """A video that was made, and CPU seconds meanwhile by whose they are."""

    made: T
    seconds: float
    cpu: dict[str, float]


def table(
    subject: Subject, triton_threads: int, jobs: Sequence[Run[Done]], loops: Mapping[int, Sequence[Run[Made]]]
) -> None:
    """Print all of it; `loops` by number of threads.

    A video of one unit is compared with the loop of as many threads as a stage has: no two of its stages can work at
    the same time, on no machine. Any other with the fastest loop.
    """
    one_unit = len(subject.plan.units) == 1
    best = triton_threads if one_unit else min(loops, key=lambda threads: _wall(loops[threads]))
    met = _summary(subject, triton_threads, jobs, loops, best)
    # Rows of one run add up; medians of rows would not. So what follows is of the run in the middle.
    ours, theirs = _middle(jobs), {threads: _middle(runs) for threads, runs in loops.items()}
    _work(ours, theirs)
    _path(ours.made, theirs[best].made, met)


def _summary(
    subject: Subject,
    triton_threads: int,
    jobs: Sequence[Run[Done]],
    loops: Mapping[int, Sequence[Run[Made]]],
    best: int,
) -> bool:
    _row("", "median s", "min", "max", "cores busy with others' work")
    for threads, runs in loops.items():
        _spread(f"bare loop, {threads} thread(s){', taken' if threads == best else ''}", runs)
    _spread(f"system, {triton_threads} thread(s) a stage", jobs)
    firsts = [run.made.first_frame for run in jobs]
    on_status = median(run.made.status_first_frame for run in jobs)
    _row("system, first frame", f"{median(firsts):.2f}", f"{min(firsts):.2f}", f"{max(firsts):.2f}")
    _row("  as on the status", f"{on_status:.2f}", "", "", "creationTimestamp has whole seconds")
    bare = _wall(loops[best])
    _ratio("first frame / bare loop's wall", median(firsts) / bare, subject.first_frame_target)
    if max(attempts := [run.made.attempts for run in jobs]) > 1:
        print(f"  Some runs took more than one attempt, and their times hold that: {attempts}.")
    return _ratio("wall / bare loop's wall", _wall(jobs) / bare, subject.wall_target)


def _work(ours: Run[Done], theirs: Mapping[int, Run[Made]]) -> None:
    names = [f"bare, {threads}" for threads in theirs]
    print("\n  Seconds of work per stage, in the median run")
    _row("", "system", *names)
    stages = ours.made.stages
    for name, seconds, stage in (
        ("text encoder", stages.text_encode, "text"),
        ("denoiser", stages.denoise, "denoise"),
        ("VAE decoder", stages.vae_decode, "decode"),
        ("encoder, MP4", stages.mux, "encode"),
    ):
        _row(name, f"{seconds:.2f}", *(f"{run.made.stages[stage]:.2f}" for run in theirs.values()))
    _row("store", f"{stages.upload:.2f}")
    print("\n  CPU seconds, in the median run")
    _row("", "system", *names)
    for name, seconds in ours.cpu.items():
        _row(name, f"{seconds:.1f}", *(f"{run.cpu[name]:.1f}" for run in theirs.values()))


def _path(job: Done, loop: Made, met: bool) -> None:
    if job.pieces is None:
        print("\n  Where the median run's wall time went is not known: its last record was not seen in time.")
        return
    print("\n  Where the wall time goes, in the median run, and what of it is beyond the bare loop's")
    _row("", "system", "bare", "beyond")
    beyond = {}
    for piece, name in PIECES.items():
        bare = loop.stages.get(piece, 0.0)
        beyond[name] = job.pieces[piece] - bare
        _row(name, f"{job.pieces[piece]:.2f}", f"{bare:.2f}", f"{beyond[name]:+.2f}")
    _row("wall", f"{job.wall:.2f}", f"{loop.wall:.2f}", f"{job.wall - loop.wall:+.2f}")
    if not met:
        causes = sorted(beyond, key=lambda name: -beyond[name])[:CAUSES]
        print("  The target of the wall time is missed, most through:")
        for name in causes:
            print(f"    {name}, {beyond[name]:+.2f} s")


def _wall(runs: Sequence[Run[T]]) -> float:
    return median(run.made.wall for run in runs)


def _middle(runs: Sequence[Run[T]]) -> Run[T]:
    return sorted(runs, key=lambda run: run.made.wall)[(len(runs) - 1) // 2]


def _spread(name: str, runs: Sequence[Run[T]]) -> None:
    walls = [run.made.wall for run in runs]
    others = median(run.cpu[OTHERS] / run.seconds for run in runs)
    _row(name, f"{median(walls):.2f}", f"{min(walls):.2f}", f"{max(walls):.2f}", f"{others:.2f} of {os.cpu_count()}")


def _ratio(name: str, ratio: float, target: float) -> bool:
    met = ratio <= target
    _row(name, f"{ratio:.2f}", "", "", f"target: at most {target:.2f}, {'met' if met else 'MISSED'}")
    return met


def _row(name: str, *cells: str) -> None:
    print(f"  {name:<40}" + "".join(f"{cell:>10}" if index < 3 else f"   {cell}" for index, cell in enumerate(cells)))
