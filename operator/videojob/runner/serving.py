"""Keeps the pool's VideoModels loaded on the Triton server, through its restarts, and reports the state of each.

Where the replica's memory is known and not all models fit, the least recently used that no job needs makes room for the
one that a job waits for. Weights count as on the accelerator from before they are loaded until Triton has dropped them.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tenacity import AsyncRetrying, RetryError, retry_if_exception_type, wait_exponential

from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import VideoModel, VideoModelSpec
from videojob.runner.clock import Clock
from videojob.runner.hold import Permission
from videojob.runner.kept import keep
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.residency import Resident, make_room, preload
from videojob.runner.signals import Signal
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton.contract import CONTROL_MODEL, STAGES, model_name
from videojob.triton.digest import Digests
from videojob.triton.repository import Device, is_rendered, remove, render, render_control, touch
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
LOADS = 3
"""In a row of weights that are written to while they are loaded."""
FAILED_SECONDS = 300.0
"""For so long a model that did not load, and made room, does not count as one that a job could have loaded."""
REPORT_WAIT_SECONDS = 3.0
"""After which a job that waits for its model gets the reason on its status."""
MESSAGE_LIMIT = 512


class WeightsChangingError(Exception):
    """What Triton has read of a folder is neither what was in it before nor what was in it afterwards."""


class OtherWeightsError(Exception):
    """A folder holds other weights than the VideoModel declares."""


@dataclass(frozen=True)
class Failure:
    """Why a model did not load. It counts until other weights or another spec may load, and for a while only."""

    message: str
    digest: str
    spec: VideoModelSpec
    until: float


@dataclass
class Served:
    """A VideoModel of the pool."""

    model: VideoModel
    state: ModelState = ModelState.LOADING
    digest: str = ""
    message: str = ""
    failure: Failure | None = None
    """The last one, unless the model was loaded since."""
    ready: bool = False
    """Triton has it, as far as we know."""
    ended: set[str] = field(default_factory=set)
    """Stages whose process has ended."""
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
    """`wanted`, `dropped` or the spec has changed."""

    @property
    def name(self) -> str:
        """Of the VideoModel."""
        return self.model.metadata.name

    @property
    def weights_bytes(self) -> int:
        """Memory that it takes when no job runs on it."""
        return self.model.spec.memory.weights_bytes

    def check(self) -> None:
        """Raises TritonGoneError where it does not load."""
        if self.state is ModelState.FAILED:
            raise TritonGoneError(f"The model {self.name} does not load: {self.message}")


class Serving:
    """The models of one server. `changed` is called whenever the report changes."""

    def __init__(
        self,
        triton: Triton,
        clock: Clock,
        metrics: RunnerMetrics,
        *,
        model_repository: Path,
        repository: Path,
        device: Device,
        replica: ReplicaSettings,
        memory_bytes: int,
        permission: Permission,
        changed: Callable[[], None],
    ) -> None:
        """`memory_bytes` of the accelerator are for weights and jobs; 0 where that is not known: all models fit.

        Models are loaded and unloaded only while `permission` is fresh: else the server may be another runner's.
        """
        self._triton = triton
        self._clock = clock
        self._metrics = metrics
        self._model_repository = model_repository
        self._repository = repository
        self._device = device
        self._replica = replica
        self._memory = memory_bytes or float("inf")
        self._permission = permission
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._leaving: list[Served] = []
        self._digests = Digests()
        self._loading = asyncio.Lock()
        self._news = Signal()
        """Memory may have become free, or a model has turned to another state."""
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

    async def take(self, name: str, seconds: float, report_wait: Callable[[str], None] = lambda why: None) -> Served:
        """The model, once the server has it, with room for one more job: it stays until it is given back.

        Others that no job uses make room, and are gone by then. Raises TritonGoneError, with the reason, after
        `seconds`, and as soon as the model does not load. `report_wait` is called with the reason,
        and with each new one, where that takes a while.
        """
        admitted: Served | None = None
        began, reported = self._clock.monotonic(), ""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    served = self._served.get(name)
                    if admitted is not None and served is not admitted:  # It was made anew under its old name.
                        self.give_back(admitted)
                        admitted = None
                    if served is not None:
                        served.check()
                        if admitted is None and self._admit(served):
                            admitted = served
                        if admitted is not None and served.ready and self._fits(served):
                            return served
                    why = self._why_not(name, admitted)
                    if why != reported and self._clock.monotonic() - began >= REPORT_WAIT_SECONDS:
                        report_wait(why)
                        reported = why
                    await self._news.wait(POLL_SECONDS)
        except BaseException as error:
            why = self._why_not(name, admitted)
            if admitted is not None:
                self.give_back(admitted)
            self._make_up_for(name)
            if not isinstance(error, TimeoutError):
                raise
        raise TritonGoneError(f"The model {name} was not ready within {seconds:g} s: {why}.") from None

    def give_back(self, served: Served) -> None:
        """A job that took the model no longer uses it."""
        served.jobs -= 1
        served.used = self._clock.monotonic()
        self._news.give()

    def doubt(self, name: str) -> None:
        """Triton has failed somebody: the model counts as ready only once it was looked at again."""
        if served := self._served.get(name):
            served.ready = False

    def repair(self, name: str, stage: str) -> None:
        """The process of a stage has ended, of which Triton knows nothing: the stage is loaded anew."""
        if served := self._served.get(name):
            served.ended.add(stage)
            served.ready = False
            served.turned.give()

    def want(self, models: Mapping[str, VideoModel]) -> None:
        """Serve these models and no others. One that was made anew under its old name is loaded anew."""
        for name, served in tuple(self._served.items()):
            wanted = models.get(name)
            if wanted is None or wanted.metadata.uid != served.model.metadata.uid:
                self._drop(name)
        new = [Served(model) for name, model in models.items() if name not in self._served]
        for name, model in models.items():
            if (known := self._served.get(name)) is not None:
                changed, known.model = known.model.spec != model.spec, model
                if changed:
                    known.turned.give()
        self._served |= {served.name: served for served in new}
        self._served = {name: self._served[name] for name in models}  # In the pool's order.
        self._preload()
        for served in new:
            work = keep("model", partial(self._reconcile, served), self._metrics, monotonic=self._clock.monotonic)
            served.task = asyncio.create_task(work, name=f"model {served.name}")
        self._changed()

    async def run(self) -> None:
        """Check the server, for ever: whether it answers, and whether it hangs."""
        silent = 0
        while True:
            try:
                await self._triton.check()
                silent = 0
                self._set_error("")
            except TritonGoneError as error:
                silent += 1
                self._set_error(str(error))
                if silent == HUNG_POLLS:
                    self._triton.give_up(str(error))
            await asyncio.sleep(POLL_SECONDS)

    async def close(self) -> None:
        """Stop reconciling models; what is loaded stays loaded."""
        self._digests.stop()
        tasks = [served.task for served in (*self._served.values(), *self._leaving) if served.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _admit(self, served: Served) -> bool:
        """Whether there is room for one more job on the model, which takes it; models that make room are unloaded."""
        leaving = make_room(served.name, self._residents(), self._memory)
        if leaving is None:
            return False
        for name in leaving:
            log.info("The model %s makes room for %s.", name, served.name)
            self._want(self._served[name], False)
        served.jobs += 1
        self._want(served, True)
        return True

    def _preload(self) -> None:
        """Have models loaded before a job asks: in the pool's order, but first those that may load."""
        residents = sorted(self._residents(), key=lambda resident: resident.used == float("-inf"))
        for name in preload(residents, self._memory):
            self._want(self._served[name], True)

    def _make_up_for(self, name: str) -> None:
        """Have what left for a model that does not load come back, where no job needs that one."""
        served = self._served.get(name)
        if served is not None and served.state is ModelState.FAILED and not served.jobs:
            self._want(served, False)
            self._preload()

    def _why_not(self, name: str, admitted: Served | None) -> str:
        """Why a job does not have the model yet."""
        served = self._served.get(name)
        if self.error or served is None:
            return self.error.rstrip(".") or "this replica does not serve it"
        if served.message:
            return served.message.rstrip(".")
        if admitted is None:
            return "jobs that run take the memory that it needs"
        return "another model has not left the memory that it needs yet" if served.ready else "it is loading"

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
                served.ready = False
                self._news.give()
            served.turned.give()

    async def _reconcile(self, served: Served) -> None:
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
        async with self._alone():
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
            served.failure = None
            self._set(served, ModelState.READY, "")
            while served.wanted and not served.ended and await self._still_ready(served.name):
                if served.wanted and not served.ended and not served.ready:
                    served.ready = True
                    self._news.give()
                await served.turned.wait(POLL_SECONDS)
            if served.wanted:
                ended = ", ".join(sorted(served.ended))
                why = f"The process of {ended} has ended." if ended else "Triton was restarted."
                log.warning("The model %s is loaded again: %s", served.name, why)
                self._set(served, ModelState.LOADING, why)

    async def _rest(self, served: Served) -> None:
        """Unload the model, and see that its folder is there, while it is not wanted."""
        if served.digest:
            self._set_aside(served)
        await self._unload(served)
        await self._until_done(served, self._look)
        if not served.wanted and not served.dropped:
            self._set_aside(served)
            # One that did not load may be another one soon.
            await served.turned.wait(LONGEST_PAUSE if served.state is ModelState.FAILED else None)

    def _set_aside(self, served: Served) -> None:
        """Say how a model is that is not wanted. Else jobs would come for one that does not load, again and again."""
        failure, spec = served.failure, served.model.spec
        known = failure is not None and (failure.digest, failure.spec) == (served.digest, spec)
        if failure is not None and known and self._clock.monotonic() < failure.until:
            self._set(served, ModelState.FAILED, failure.message)
            return
        needed = spec.memory.weights_bytes + spec.memory.per_job_bytes
        message = "" if needed <= self._memory else f"It needs {needed} bytes with a job; there are {self._memory}."
        self._set(served, ModelState.UNLOADED, message)

    async def _until_done(self, served: Served, work: Callable[[Served], Awaitable[None]]) -> None:
        """Try again what fails, until the model turns to something else."""
        wanted = served.wanted
        with suppress(RetryError):
            async for attempt in AsyncRetrying(
                stop=lambda _: served.wanted is not wanted or served.dropped,
                wait=wait_exponential(multiplier=0.5, max=LONGEST_PAUSE),
                retry=retry_if_exception_type(Exception),
                sleep=served.turned.wait,
            ):
                with attempt:
                    if served.wanted is wanted and not served.dropped:
                        try:
                            await work(served)
                        except Exception as error:
                            self._failed(served, error)
                            raise

    def _failed(self, served: Served, error: Exception) -> None:
        if isinstance(error, TritonGoneError):
            self._set(served, ModelState.LOADING, str(error))
            return
        until = self._clock.monotonic() + FAILED_SECONDS
        served.failure = Failure(str(error), served.digest, served.model.spec, until)
        self._set(served, ModelState.FAILED, str(error))
        log.warning("The model %s was not loaded: %s", served.name, error)

    async def _look(self, served: Served) -> None:
        """Know the weights without reading them, where they are declared or were read before; else they may be any."""
        known = await self._of_folder(served, self._digests.known)
        served.digest = served.model.spec.source.digest or known

    async def _identify(self, served: Served) -> None:
        """Read the weights and know their digest, which is to be the declared one."""
        found, source = await self._of_folder(served, self._digests.of), served.model.spec.source
        served.digest = source.digest or found
        if found != served.digest:
            raise OtherWeightsError(
                f"{source.directory} has weights of the digest {found}; spec.source.digest is {source.digest}."
            )

    async def _of_folder(self, served: Served, digest: Callable[[Path], str]) -> str:
        try:
            return await asyncio.to_thread(digest, Path(served.model.spec.source.directory))
        except (OSError, ValueError):
            served.digest = ""
            raise

    async def _load(self, served: Served) -> None:
        await self._triton.check()
        await self._start_again(served)
        # A Triton that only was silent for a moment has what it had, whatever its folder has by now.
        if not (served.there and served.digest and await self._has(served)):
            await self._load_weights(served)
        if not served.wanted:
            return
        async with self._alone():
            control = await asyncio.to_thread(render_control, self._model_repository, self._repository, self._replica)
            if not await self._triton.model_ready(control):
                await self._triton.load(control)
            await self._claim()

    async def _start_again(self, served: Served) -> None:
        """Have the stages loaded anew whose process has ended. Of any other there would be two for a moment."""
        if served.ended and not await self._still_ready(served.name):
            served.ended.clear()  # Triton was restarted: all are loaded.
        for stage in tuple(served.ended):
            async with self._alone():
                await asyncio.to_thread(touch, self._repository, stage)
                await self._load_timed(served.name, stage)
            served.ended.discard(stage)

    async def claim(self) -> None:
        """Claim the server for this runner, if it can be claimed by now: else that is done once models are loaded."""
        async with self._alone():
            with suppress(TritonGoneError, TritonRefusedError):
                if await self._triton.model_ready(CONTROL_MODEL):
                    await self._claim()

    async def _claim(self) -> None:
        """Claim the server. A higher claim than ours is an older runner's, if the Lease is still ours after it."""
        while (theirs := await self._triton.claim()) is not None:
            log.warning("Another runner has claimed Triton, with %d; ours is %d.", theirs, self._triton.claim_number)
            await self._permission.confirmed()
            self._triton.claim_number = theirs + 1

    async def _load_weights(self, served: Served) -> None:
        """Have Triton load what is in the folder, unless it has, and know its digest: somebody may write there."""
        for _ in range(LOADS):
            try:
                await self._identify(served)
            except (OSError, ValueError, OtherWeightsError):
                self._metrics.load_failed(served.name)
                raise
            while not self._fits(served):
                await self._news.wait()
                if not served.wanted:
                    return
            served.there = True
            digest = served.digest
            async with self._alone():
                # A runner that was restarted finds the model loaded, as long as it is still the same.
                if not await self._has(served):
                    await self._load_rendered(served)
            await self._identify(served)
            if served.digest == digest:
                return
            log.warning("The weights of the model %s were changed while it was loaded.", served.name)
        async with self._alone():
            await self._take_off(served.name)
        raise WeightsChangingError(f"{served.model.spec.source.directory} is written to while the model is loaded.")

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While nobody else loads or unloads a model here, another runner included."""
        async with self._loading:
            await self._permission.fresh_again()
            yield

    async def _has(self, served: Served) -> bool:
        """Whether Triton has the model as it is now, with these weights."""
        return await asyncio.to_thread(is_rendered, *self._rendering(served)) and await self._still_ready(served.name)

    async def _load_rendered(self, served: Served) -> None:
        rendering = self._rendering(served)
        if not await asyncio.to_thread(is_rendered, *rendering):
            # There is memory for one of the two. And gone before the folder changes: so whoever finds the folder as it
            # should be, if only after a crash, knows that Triton has nothing else.
            await self._take_off(served.name)
        await self._load_timed(served.name, await asyncio.to_thread(render, *rendering))

    def _rendering(self, served: Served) -> tuple[Path, Path, ModelSettings, ReplicaSettings, Device]:
        settings = settings_of(served.model, served.digest)
        return self._model_repository, self._repository, settings, self._replica, self._device

    async def _load_timed(self, name: str, on_triton: str) -> None:
        started = self._clock.monotonic()
        try:
            await self._triton.load(on_triton)
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
            served.ready = False
        self._news.give()
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
        logged = ""
        while served.there and not served.wanted:
            try:
                await self._start_again(served)  # Triton waits for ever for the end of what has no process.
                async with self._alone():
                    await self._take_off(served.name)
                served.there = False
            except (TritonGoneError, TritonRefusedError) as error:
                if str(error) != logged:
                    logged = str(error)
                    log.warning("The model %s is not unloaded yet: %s", served.name, error)
                await asyncio.sleep(POLL_SECONDS)
        self._news.give()

    async def _take_off(self, name: str) -> None:
        """Have Triton drop the model, if it has it. Raises TritonGoneError, also where it takes long."""
        stages = [model_name(name, stage) for stage in reversed(STAGES)]  # The ensemble first.
        if not await self._triton.present() & set(stages):
            return
        # One by one: what was loaded by itself, or is left of a load that failed, does not go with the ensemble.
        for stage in stages:
            await self._triton.unload(stage)
        try:
            async with asyncio.timeout(UNLOAD_SECONDS):
                while await self._triton.present() & set(stages):  # noqa: ASYNC110 - nothing notifies
                    await asyncio.sleep(UNLOAD_POLL_SECONDS)
        except TimeoutError:
            raise TritonGoneError(f"Triton has not dropped the model {name} for {UNLOAD_SECONDS:g} s.") from None

    def _set_error(self, error: str) -> None:
        if error != self.error:
            log.log(logging.WARNING if error else logging.INFO, error or "Triton answers.")
            self.error = error[:MESSAGE_LIMIT]
            self._changed()


def settings_of(model: VideoModel, weights_digest: str) -> ModelSettings:
    """A VideoModel, with those weights, as settings of the stages."""
    spec = model.spec
    return ModelSettings(
        name=model.metadata.name,
        family=spec.family,
        directory=spec.source.directory,
        weights_digest=weights_digest,
        precision=spec.precision.value,
    )
