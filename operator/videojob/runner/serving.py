"""Keeps the pool's VideoModels loaded on the Triton server, through its restarts, and says how each of them is.

Where the replica's memory is known and not all models fit, the least recently used that no job needs makes room for the
one that a job waits for. Weights count as on the accelerator from before they are loaded until Triton has dropped them.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, RetryError, retry_if_exception_type, wait_exponential

from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import VideoModel
from videojob.runner.clock import Clock
from videojob.runner.metrics import Metrics
from videojob.runner.residency import Resident, make_room, preload
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton.contract import STAGES, model_name
from videojob.triton.digest import Digests
from videojob.triton.repository import remove, render, render_control
from videojob.triton.settings import ModelSettings, ReplicaSettings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between looks at whether Triton still has a model: a restarted one has none."""
UNLOAD_POLL_SECONDS = 0.1
UNLOAD_SECONDS = 120.0
"""Longer than any chunk that a model may still be making."""
HUNG_POLLS = 3
"""Unanswered looks in a row after which Triton counts as hung."""
LONGEST_PAUSE = 30.0
MESSAGE_LIMIT = 512


class Signal:
    """Wakes everyone who waits when it is given; a new wait is for the next time."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Something has changed."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, seconds: float | None = None) -> None:
        """Until it is given, or so long."""
        event = self._event
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await event.wait()


@dataclass
class Served:
    """A VideoModel of the pool."""

    model: VideoModel
    state: ModelState = ModelState.LOADING
    digest: str = ""
    message: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    wanted: bool = False
    """It is to be on the accelerator."""
    dropped: bool = False
    """The pool no longer has it."""
    there: bool = True
    """It may be on the accelerator; at first it is not known what a runner before has loaded."""
    jobs: int = 0
    used: float = 0.0
    turned: Signal = field(default_factory=Signal)
    """`wanted` or `dropped` has changed."""

    @property
    def name(self) -> str:
        """Of the VideoModel."""
        return self.model.metadata.name

    @property
    def weights_bytes(self) -> int:
        """Memory that it takes when no job runs on it."""
        return self.model.spec.memory.weights_bytes


class Serving:
    """The models of one server. `changed` is called whenever the report says something new."""

    def __init__(
        self,
        triton: Triton,
        clock: Clock,
        metrics: Metrics,
        *,
        model_repository: Path,
        repository: Path,
        device: Literal["cpu", "gpu"],
        replica: ReplicaSettings,
        memory_bytes: int,
        changed: Callable[[], None],
    ) -> None:
        """`memory_bytes` of the accelerator are for weights and jobs; 0 where that is not known: all models fit."""
        self._triton = triton
        self._clock = clock
        self._metrics = metrics
        self._model_repository = model_repository
        self._repository = repository
        self._device = device
        self._replica = replica
        self._memory = memory_bytes or float("inf")
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._leaving: list[Served] = []
        self._digests = Digests()
        self._loading = asyncio.Lock()
        self._room = Signal()
        """Memory may have become free."""
        self.error = ""
        """Why Triton cannot be used, if so."""

    def report(self) -> tuple[LoadedModel, ...]:
        """How each model is."""
        return tuple(
            LoadedModel(
                name=name,
                uid=served.model.metadata.uid,
                state=served.state,
                digest=served.digest,
                message=served.message,
            )
            for name, served in sorted(self._served.items())
        )

    async def take(self, name: str, seconds: float) -> Served:
        """The model, once the server has it, with room for one more job: it stays until it is given back.

        Others that no job uses make room. Raises TritonGoneError, with the reason, after `seconds`.
        """
        admitted: Served | None = None
        try:
            async with asyncio.timeout(seconds):
                while True:
                    served = self._served.get(name)
                    if served is None:
                        await asyncio.sleep(POLL_SECONDS)
                    elif self._admit(served):
                        admitted = served
                        await served.ready.wait()
                        return served
                    else:
                        await self._room.wait()
        except BaseException as error:
            if admitted is not None:
                self.give_back(admitted)
            if not isinstance(error, TimeoutError):
                raise
        served = self._served.get(name)
        why = self.error or (served.message if served else "this replica does not serve it")
        if not why:
            why = "it is loading" if admitted else "jobs that run take the memory that it needs"
        raise TritonGoneError(f"The model {name} was not ready within {seconds:g} s: {why}.") from None

    def give_back(self, served: Served) -> None:
        """A job that took the model no longer uses it."""
        served.jobs -= 1
        served.used = self._clock.monotonic()
        self._room.give()

    def doubt(self, name: str) -> None:
        """Triton has failed somebody: the model counts as ready only once it was looked at again."""
        if served := self._served.get(name):
            served.ready.clear()

    def want(self, models: Mapping[str, VideoModel]) -> None:
        """Serve these models and no others. One that was made anew under its old name is loaded anew."""
        for name, served in tuple(self._served.items()):
            wanted = models.get(name)
            if wanted is None or wanted.metadata.uid != served.model.metadata.uid:
                self._drop(name)
        new = [Served(model) for name, model in models.items() if name not in self._served]
        for name, model in models.items():
            if name in self._served:
                self._served[name].model = model
        self._served |= {served.name: served for served in new}
        self._served = {name: self._served[name] for name in models}  # In the pool's order.
        for name in preload(self._residents(), self._memory):
            self._want(self._served[name], True)
        for served in new:
            served.task = asyncio.create_task(self._look_after(served), name=f"model {served.name}")
        self._changed()

    async def run(self) -> None:
        """Look after the server, for ever: whether it answers, and whether it hangs."""
        silent = 0
        while True:
            try:
                await self._triton.check()
                silent = 0
                self._say("")
            except TritonGoneError as error:
                silent += 1
                self._say(str(error))
                if silent == HUNG_POLLS:
                    self._triton.give_up(str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Stop looking after models; what is loaded stays loaded."""
        tasks = [served.task for served in (*self._served.values(), *self._leaving) if served.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self, served: Served) -> bool:
        """Whether there is room for one more job on the model, which takes it; what makes room is told to leave."""
        leaving = make_room(served.name, self._residents(), self._memory)
        if leaving is None:
            return False
        for name in leaving:
            log.info("The model %s makes room for %s.", name, served.name)
            self._want(self._served[name], False)
        served.jobs += 1
        self._want(served, True)
        return True

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                name=name,
                weights_bytes=served.weights_bytes,
                per_job_bytes=served.model.spec.memory.per_job_bytes,
                loaded=served.wanted,
                jobs=served.jobs,
                used=float("-inf") if served.state is ModelState.FAILED else served.used,
            )
            for name, served in self._served.items()
        ]

    def _want(self, served: Served, wanted: bool) -> None:
        if served.wanted is not wanted:
            served.wanted = wanted
            if not wanted:
                served.ready.clear()
                self._room.give()
            served.turned.give()

    async def _look_after(self, served: Served) -> None:
        """Have the model on the accelerator while it is wanted there, and off it while it is not, until dropped."""
        for before in tuple(self._leaving):
            if before.name == served.name and before.task:
                await asyncio.wait({before.task})
        while not served.dropped:
            if served.wanted:
                await self._keep(served)
            else:
                await self._rest(served)
        await self._unload(served)
        await asyncio.to_thread(remove, self._repository, served.name)
        self._leaving.remove(served)

    async def _keep(self, served: Served) -> None:
        """Load the model, and load it again whenever the server has lost it, while it is wanted."""
        self._set(served, ModelState.LOADING, "")
        while served.wanted:
            await self._until_done(served, self._load)
            if not served.wanted:
                return
            log.info("The model %s is loaded.", served.name)
            self._set(served, ModelState.READY, "")
            while served.wanted and await self._still_ready(served.name):
                if served.wanted:
                    served.ready.set()
                await served.turned.wait(POLL_SECONDS)
            if served.wanted:
                log.warning("Triton has lost the model %s, which is loaded again.", served.name)
                self._set(served, ModelState.LOADING, "Triton was restarted.")

    async def _rest(self, served: Served) -> None:
        """Unload the model, and know its weights, while it is not wanted."""
        memory = served.model.spec.memory
        needed = memory.weights_bytes + memory.per_job_bytes
        message = "" if needed <= self._memory else f"It needs {needed} bytes with a job; there are {self._memory}."
        if served.digest:
            self._set(served, ModelState.UNLOADED, message)
        await self._unload(served)
        await self._until_done(served, self._identify)
        if not served.wanted and not served.dropped:
            self._set(served, ModelState.UNLOADED, message)
            await served.turned.wait()

    async def _until_done(self, served: Served, work: Callable[[Served], Awaitable[None]]) -> None:
        """Try again what fails, until the model turns to something else."""

        def failed(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, TritonGoneError):
                self._set(served, ModelState.LOADING, str(error))
            else:
                self._set(served, ModelState.FAILED, str(error))
                log.warning("The model %s was not loaded: %s", served.name, error)

        wanted = served.wanted
        with suppress(RetryError):
            async for attempt in AsyncRetrying(
                stop=lambda _: served.wanted is not wanted or served.dropped,
                wait=wait_exponential(multiplier=0.5, max=LONGEST_PAUSE),
                retry=retry_if_exception_type(Exception),
                before_sleep=failed,
                sleep=served.turned.wait,
            ):
                with attempt:
                    if served.wanted is wanted and not served.dropped:
                        await work(served)

    async def _identify(self, served: Served) -> None:
        directory = Path(settings_of(served.model).directory)
        served.digest = await asyncio.to_thread(self._digests.of, directory)

    async def _load(self, served: Served) -> None:
        settings = settings_of(served.model)
        await self._triton.check()
        try:
            await self._identify(served)
        except OSError:
            self._metrics.load_failed(served.name)
            raise
        while not self._fits(served):
            await self._room.wait()
            if not served.wanted:
                return
        served.there = True
        async with self._loading:
            before = self._rendered(served.name)
            ensemble = await asyncio.to_thread(
                render, self._model_repository, self._repository, settings, self._replica, self._device
            )
            # A runner that was restarted finds the model loaded, as long as it is still the same.
            changed = before != self._rendered(served.name)
            if changed:
                await self._take_off(served.name)  # There is memory for one of the two.
            if changed or not await self._still_ready(served.name):
                await self._load_timed(served.name, ensemble)
            control = await asyncio.to_thread(render_control, self._model_repository, self._repository, self._replica)
            if not await self._triton.model_ready(control):
                await self._triton.load(control)

    async def _load_timed(self, name: str, ensemble: str) -> None:
        started = self._clock.monotonic()
        try:
            await self._triton.load(ensemble)
        except (TritonGoneError, TritonRefusedError):
            self._metrics.load_failed(name)
            raise
        self._metrics.loaded(name, self._clock.monotonic() - started)

    def _fits(self, served: Served) -> bool:
        """Whether what is on the accelerator leaves room for the weights: what has to go may not be gone yet."""
        others = [*self._served.values(), *self._leaving]
        held = sum(other.weights_bytes for other in others if other.there and other is not served)
        jobs = sum(other.jobs * other.model.spec.memory.per_job_bytes for other in others)
        return held + jobs + served.weights_bytes <= self._memory

    async def _still_ready(self, name: str) -> bool:
        try:
            for stage in STAGES:
                if not await self._triton.model_ready(model_name(name, stage)):
                    return False
        except TritonGoneError:
            return False
        return True

    def _set(self, served: Served, state: ModelState, message: str) -> None:
        served.state, served.message = state, message[:MESSAGE_LIMIT]
        if state is not ModelState.READY:
            served.ready.clear()
        self._changed()

    def _drop(self, name: str) -> None:
        served = self._served.pop(name)
        self._leaving.append(served)
        served.dropped = True
        self._want(served, False)
        served.turned.give()

    async def _unload(self, served: Served) -> None:
        """Take the model off the accelerator, however long Triton takes, and return when it is gone.

        Or earlier, where it is wanted again before Triton has dropped it.
        """
        told = ""
        while served.there and not served.wanted:
            try:
                async with self._loading:
                    await self._take_off(served.name)
                served.there = False
            except (TritonGoneError, TritonRefusedError) as error:
                if str(error) != told:
                    told = str(error)
                    log.warning("The model %s is not unloaded yet: %s", served.name, error)
                await asyncio.sleep(POLL_SECONDS)
        self._room.give()

    async def _take_off(self, name: str) -> None:
        """Have Triton drop the model, if it has it. Raises TritonGoneError, also where it takes long."""
        ensemble, stages = model_name(name, "video_chunk"), {model_name(name, stage) for stage in STAGES}
        present = stages & await self._triton.present()
        # Stages without their ensemble are what a load that failed has left.
        for each in {ensemble} if ensemble in present else present:
            await self._triton.unload(each)
        try:
            async with asyncio.timeout(UNLOAD_SECONDS):
                while stages & await self._triton.present():  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(UNLOAD_POLL_SECONDS)
        except TimeoutError:
            raise TritonGoneError(f"Triton has not dropped the model {name} for {UNLOAD_SECONDS:g} s.") from None

    def _rendered(self, name: str) -> list[int]:
        """What changes when `render` does: it replaces a folder whole, or leaves it alone."""
        folders = (self._repository / model_name(name, stage) for stage in STAGES)
        return [folder.stat().st_ino for folder in folders if folder.exists()]

    def _say(self, error: str) -> None:
        if error != self.error:
            log.log(logging.WARNING if error else logging.INFO, error or "Triton answers.")
            self.error = error[:MESSAGE_LIMIT]
            self._changed()


def settings_of(model: VideoModel) -> ModelSettings:
    """A VideoModel as the stages are told about it."""
    spec = model.spec
    return ModelSettings(
        name=model.metadata.name,
        family=spec.family,
        directory=spec.source.directory,
        precision=spec.precision.value,
        first_latents=spec.chunk.first_latents,
        latents=spec.chunk.latents,
        sink_latents=spec.sink_latents,
        window_latents=spec.window_latents,
    )
