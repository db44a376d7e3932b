"""`make demo`: makes one video and shows its progress, from an empty machine to an MP4."""

import asyncio
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from dev.control_plane import MANIFESTS, Cluster
from dev.errors import DevError
from dev.local import LOCAL, SERVICES, Report, connect, start
from dev.supervisor import crash_loop
from videojob.api.videojob import Phase, VideoJob
from videojob.kube.client import VIDEO_JOBS, KubeClient, KubeError
from videojob.kube.connection import configuration

FOLDER = LOCAL / "demo"
"""Folder of the system that the demo starts where none is up."""
VIDEO = LOCAL / "demo.mp4"
NAMESPACE = "default"
JOB_SECONDS = 300
LOOK_SECONDS = 0.2


def demo(console: Console, report: Report) -> None:
    """Make the sample video and show its progress, with the system that is up or else with one of its own.

    Raises:
        DevError: there is no video.
    """
    with _system(report) as (folder, cluster):
        manifest = yaml.safe_load((MANIFESTS / "samples" / "one-shot.yaml").read_text())
        name = f"demo-{uuid.uuid4().hex[:6]}"
        manifest["metadata"] |= {"name": name, "namespace": NAMESPACE}
        report(f"VideoJob {name}: {manifest['spec']['shots'][0]['prompt']}")
        cluster.apply(manifest)
        try:
            job = asyncio.run(_follow(cluster, folder, name, console, report))
        except BaseException:
            cluster.kubectl("delete", "videojob", name, "--namespace", NAMESPACE, "--wait=false")
            raise
        console.print(summary(job))


def describe(job: VideoJob) -> str:
    """How far a job is, in one line."""
    status = job.status
    parts = [status.phase.value]
    if status.progress is not None:
        parts.append(f"{status.progress.chunks_done} of {status.progress.chunks_total} chunks")
        parts.append(f"{status.progress.seconds_ready:.1f} s of video ready")
    if status.timing is not None and status.timing.first_frame_seconds is not None:
        parts.append(f"first frame after {status.timing.first_frame_seconds:.1f} s")
    if (not status.phase.finished and status.progress is None) or status.phase is Phase.FAILED:
        parts += [condition.message for condition in status.conditions if condition.reason == status.reason]
    return ", ".join(parts)


def remaining(job: VideoJob, now: datetime) -> str:
    """How long a job will still take, as the end of a line; nothing where that is not known."""
    estimate = job.status.estimated_completion_time
    if estimate is None or job.status.phase.finished:
        return ""
    return f", about {max(0.0, (estimate - now).total_seconds()):.0f} s left"


def summary(job: VideoJob) -> Table:
    """What the video took, from the job's status, and where it is: in a file of its own if its store is a folder."""
    timing, output, cost = job.status.timing, job.status.output, job.status.cost
    if timing is None or output is None or cost is None:
        raise DevError("The job succeeded, but its status does not have what it took.")
    stages = ", ".join(f"{name.replace('_', ' ')} {spent:.2f}" for name, spent in timing.stages.model_dump().items())
    table = Table(show_header=False)
    for what, value in (
        ("Time to first frame", f"{timing.first_frame_seconds:.2f} s"),
        ("Wall s per video s", f"{timing.real_time_factor:.2f}"),
        ("Seconds per stage", stages),
        ("GPU-seconds", f"{cost.gpu_seconds.total:.2f}"),
        ("Size", f"{output.size_bytes / 1e6:.2f} MB"),
        ("Frames", f"{output.frames} ({output.duration_seconds:.2f} s)"),
        ("Video", _fetch(output.uri)),
    ):
        table.add_row(what, value)
    return table


@contextmanager
def _system(report: Report) -> Iterator[tuple[Path, Cluster]]:
    """The system that is up, or one for the time of the demo."""
    running = connect(LOCAL)
    if running is not None:
        yield LOCAL, running
        return
    shutil.rmtree(FOLDER, ignore_errors=True)
    supervisor, cluster = start(FOLDER, report)
    try:
        yield FOLDER, cluster
    finally:
        report("Stopping ...")
        supervisor.stop()


async def _follow(cluster: Cluster, folder: Path, name: str, console: Console, report: Report) -> VideoJob:
    """Show the job's progress until it has succeeded: on a terminal as a bar, elsewhere as a line for every change."""
    client = KubeClient(await configuration(cluster.kubeconfig))
    columns = (SpinnerColumn(), BarColumn(bar_width=20), TextColumn("{task.description}"))
    shown = ""
    try:
        async with asyncio.timeout(JOB_SECONDS):
            with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
                task = bar.add_task("", total=None)
                while True:
                    if sentence := crash_loop(folder, SERVICES):
                        raise DevError(sentence)
                    job = await _look(client, name)
                    if job is not None:
                        seen, shown = shown, describe(job)
                        line = shown + remaining(job, datetime.now(UTC))
                        bar.update(task, description=line)
                        if progress := job.status.progress:
                            bar.update(task, total=progress.chunks_total, completed=progress.chunks_done)
                        if shown != seen and not console.is_terminal:
                            report(line)
                        if job.status.phase is Phase.SUCCEEDED:
                            return job
                        if job.status.phase.finished:
                            raise DevError(f"The job ended as {shown}")
                    await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise DevError(f"No video within {JOB_SECONDS} s ({shown}); the logs are in {folder / 'log'}.") from error
    finally:
        await client.close()


async def _look(client: KubeClient, name: str) -> VideoJob | None:
    """The job as it is now; None where the API server did not answer this time."""
    try:
        return VideoJob.model_validate(await client.get(VIDEO_JOBS, name, NAMESPACE))
    except KubeError as error:
        if error.transient:
            return None
        raise DevError(f"The API server refused: {error}") from error


def _fetch(uri: str) -> str:
    """Copy the video out of a store that is a folder; in another store it stays where it is."""
    address = urlsplit(uri)
    if address.scheme != "file":
        return uri
    shutil.copyfile(unquote(address.path), VIDEO)
    return str(VIDEO)
