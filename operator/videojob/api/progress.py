"""How far a job is. Pure, for whoever knows how many of its chunks are in the store."""

from videojob.api.shots import ResolvedShot, ShotProgress, ShotState
from videojob.api.videojob import Progress, Resolved


def progress_of(resolved: Resolved, chunks_done: int, frames_ready: int) -> Progress:
    """The progress of a job of which so many chunks are in the store, from the first on, with so many frames."""
    shots: list[ShotProgress] = []
    chunk = frame = 0
    for shot in resolved.cut:
        done = min(max(chunks_done - chunk, 0), shot.chunks)
        ready = min(max(frames_ready - frame, 0), shot.frames)
        seconds = round(float(ready / resolved.rate), 3)
        shots.append(ShotProgress(chunks_done=done, seconds_ready=seconds, state=_state(shot, done)))
        chunk, frame = chunk + shot.chunks, frame + shot.frames
    return Progress(
        chunks_done=chunks_done,
        chunks_total=resolved.chunks,
        seconds_ready=round(float(frames_ready / resolved.rate), 3),
        summary=f"{chunks_done}/{resolved.chunks}",
        shots=tuple(shots),
    )


def _state(shot: ResolvedShot, done: int) -> ShotState:
    if done == 0:
        return ShotState.WAITING
    return ShotState.READY if done == shot.chunks else ShotState.PARTIAL
