"""What is done about a model: on Triton, and in the folder that Triton loads from.

Each action ends with the model in the state that it has brought about. What is loaded or unloaded is so by one at a
time, and only while the runner's hold on its Lease is fresh: else the server may be another runner's.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path

from videojob.api.videomodel import ComponentDevice, VideoModel
from videojob.runner.clock import Clock
from videojob.runner.hold import Permission
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.model_state import Action, State
from videojob.runner.served import LONGEST_PAUSE, Served
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton.contract import CONTROL_MODEL, STAGES, model_name
from videojob.triton.digest import Digests, Weights
from videojob.triton.repository import Device, is_control_rendered, is_rendered, remove, render, render_control, touch
from videojob.triton.settings import (
    Adapter,
    Adapters,
    Component,
    Components,
    Images,
    ModelSettings,
    ReplicaSettings,
    Sampling,
)

log = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between looks at whether Triton still has a model: a restarted one has none."""
UNLOAD_POLL_SECONDS = 0.1
UNLOAD_SECONDS = 120.0
"""For Triton to end the processes of a model that works on nothing, before it is asked again."""
LOADS = 3
"""In a row of weights that are written to while they are loaded."""


class WeightsChangingError(Exception):
    """What Triton has read of a folder is neither what was in it before nor what was in it afterwards."""


class OtherWeightsError(Exception):
    """A folder holds other weights than the VideoModel declares."""


class Loader:
    """Carries actions out, for all models of one server."""

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
        permission: Permission,
    ) -> None:
        """`model_repository` has the templates, `repository` is what Triton loads from.

        Models are loaded and unloaded only while `permission` is fresh: else the server may be another runner's.
        """
        self._triton = triton
        self._clock = clock
        self._metrics = metrics
        self._model_repository = model_repository
        self._repository = repository
        self._device = device
        self._replica = replica
        self._permission = permission
        self._digests = Digests()
        self._loading = asyncio.Lock()
        self._effects: Mapping[Action, Callable[[Served], Awaitable[None]]] = {
            Action.READ: self._read,
            Action.LOOK: self._look,
            Action.LOOK_AT_FOLDER: self._look_at_folder,
            Action.LOAD: self._load,
            Action.LOAD_STAGE: self._load_stage,
            Action.UNLOAD: self._unload,
            Action.REMOVE: self._remove,
        }

    def stop(self) -> None:
        """End soon what reads weights, in whatever thread."""
        self._digests.stop()

    async def do(self, served: Served, action: Action) -> None:
        """Carry an action out, however long that takes. What fails is to be tried again after a pause."""
        try:
            await self._effects[action](served)
        except TritonGoneError as error:
            self._not_answered(served, action, str(error))
        except Exception as error:
            if action is Action.UNLOAD:  # However it does not load, it is not gone yet.
                self._not_answered(served, action, str(error))
                return
            served.fail(error, self._clock.monotonic())
            log.warning("The model %s was not loaded: %s", served.name, error)

    async def claim(self) -> None:
        """Claim the server for this runner, if it can be claimed by now: else that is done once models are loaded."""
        async with self._alone():
            with suppress(TritonGoneError, TritonRefusedError):
                if await self._triton.model_ready(CONTROL_MODEL):
                    await self._claim()

    def _not_answered(self, served: Served, action: Action, why: str) -> None:
        """Triton is silent or slow, which says nothing about the model."""
        if action is not Action.UNLOAD:
            served.failure = None
        if why != served.message:
            served.message = why
            log.warning("The model %s waits for Triton: %s", served.name, why)
        if served.state is State.RESIDENT:
            served.become(State.UNSURE)
        served.pause.rest(self._clock.monotonic(), LOOK_SECONDS)

    async def _read(self, served: Served) -> None:
        """Read the weights and know their digest, which is to be the declared one."""
        try:
            _check_changes(served)
            await self._identify(served)
        except (OSError, ValueError, OtherWeightsError, WeightsChangingError):
            self._metrics.load_failed(served.name)
            raise
        served.weights_read = True

    async def _look(self, served: Served) -> None:
        """Ask the server what it has. A Triton that only was silent has what it had, whatever its folder has by now."""
        if served.state is State.RESIDENT:
            if await self._ready(served.name):
                served.look_at = self._clock.monotonic() + LOOK_SECONDS
                return
            served.message = "Triton was restarted."
            log.warning("The model %s is loaded again: %s", served.name, served.message)
            served.become(State.UNSURE)
        elif not await self._triton.present() & set(_on_triton(served.name)):
            served.become(State.ABSENT)
        elif await asyncio.to_thread(is_rendered, *self._rendering(served)) and await self._ready(served.name):
            await self._see_to_control()
            log.info("The model %s is loaded.", served.name)
            served.become(State.RESIDENT)
            served.message, served.failure, served.changes = "", None, 0
            served.pause.end()
        else:
            if served.state is State.LOADING:
                served.pause.lengthen(self._clock.monotonic())
            served.become(State.LEAVING)

    async def _look_at_folder(self, served: Served) -> None:
        """Know the weights without reading them, where they are declared or were read before; else they may be any."""
        known = await self._of_files(served, self._digests.known)
        served.digest = served.model.spec.source.digest or known
        served.pause.end()
        now = self._clock.monotonic()
        # One that did not load may be another one soon.
        served.look_at = now + LONGEST_PAUSE if served.failed(now) else inf

    async def _load(self, served: Served) -> None:
        """Have Triton load what is in the folder, unless somebody writes there meanwhile."""
        digest = served.digest
        served.weights_read = False
        served.become(State.LOADING)
        async with self._alone():
            if not served.wanted:
                served.become(State.ABSENT)
                return
            ensemble = await asyncio.to_thread(render, *self._rendering(served))
            try:
                await self._load_timed(served.name, ensemble)
            except TritonRefusedError:
                served.become(State.FAILED)
                raise
        await self._identify(served)
        if served.digest != digest:
            log.warning("The weights of the model %s were changed while it was loaded.", served.name)
            served.changes += 1
            served.become(State.LEAVING)

    async def _load_stage(self, served: Served) -> None:
        """Have a stage loaded anew whose process has ended. Of any other there would be two for a moment."""
        stage = min(served.ended)
        if not await self._triton.model_ready(stage):
            served.ended.discard(stage)  # Triton was restarted, and has none of it.
            served.look_at = None
            return
        served.message = f"The process of {stage} has ended."
        log.warning("The model %s is loaded again: %s", served.name, served.message)
        async with self._alone():
            await asyncio.to_thread(touch, self._repository, stage)
            await self._load_timed(served.name, stage)
        served.ended.discard(stage)
        served.failure = None

    async def _unload(self, served: Served) -> None:
        """Have Triton drop a model that works on nothing: for a stage that hangs it would wait for ever."""
        served.become(State.LEAVING)
        # Of others, there may be a note that a Triton before this one has left.
        for stage in await self._triton.present() & set(_on_triton(served.name)):
            if await self._hangs(stage):
                served.ended.add(stage)
                return
        async with self._alone():
            await self._take_off(served.name)
        served.message = ""
        served.become(State.ABSENT)

    async def _remove(self, served: Served) -> None:
        async with self._alone():
            await asyncio.to_thread(remove, self._repository, served.name)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """While nobody else loads or unloads a model here, another runner included."""
        async with self._loading:
            await self._permission.fresh_again()
            yield

    async def _see_to_control(self) -> None:
        """Have the server's `control` model loaded, as this release has it, and the server claimed by that."""
        rendering = self._model_repository, self._repository, self._replica
        current = await asyncio.to_thread(is_control_rendered, *rendering)
        if current and await self._triton.model_ready(CONTROL_MODEL):
            return
        async with self._alone():
            control = await asyncio.to_thread(render_control, *rendering)
            if not current or not await self._triton.model_ready(control):
                await self._triton.load(control)
            await self._claim()

    async def _claim(self) -> None:
        """Claim the server. A higher claim than ours is an older runner's, if the Lease is still ours after it."""
        while (theirs := await self._triton.claim()) is not None:
            log.warning("Another runner has claimed Triton, with %d; ours is %d.", theirs, self._triton.claim_number)
            await self._permission.confirmed()
            self._triton.claim_number = theirs + 1

    async def _identify(self, served: Served) -> None:
        found, source = await self._of_files(served, self._digests.of), served.model.spec.source
        served.digest = source.digest or found
        if found != served.digest:
            raise OtherWeightsError(
                f"{source.directory} has weights of the digest {found}; spec.source.digest is {source.digest}."
            )

    async def _of_files(self, served: Served, digest: Callable[[Weights], str]) -> str:
        model = served.model
        weights = Weights(Path(model.spec.source.directory), components_of(model), adapters_of(model))
        try:
            return await asyncio.to_thread(digest, weights)
        except (OSError, ValueError):
            served.digest = ""
            raise

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

    async def _ready(self, name: str) -> bool:
        for stage in _on_triton(name):
            if not await self._triton.model_ready(stage):
                return False
        return True

    async def _hangs(self, stage: str) -> bool:
        """Whether a stage had to be ended, once it works on nothing. Raises TritonGoneError where it cannot be."""
        while (note := await self._triton.progress(stage)) is not None and note.size:
            if why := await self._triton.vigil.look(stage, 0.0):
                raise TritonGoneError(why)
            if self._triton.vigil.ended(stage):
                return True
            await asyncio.sleep(LOOK_SECONDS)
        return False

    async def _take_off(self, name: str) -> None:
        """Have Triton drop the model, if it has it. Raises TritonGoneError, also where it takes long."""
        stages = _on_triton(name)
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


def _check_changes(served: Served) -> None:
    """Raises WeightsChangingError after too many loads in vain; the next ones are counted anew."""
    if served.changes >= LOADS:
        served.changes, directory = 0, served.model.spec.source.directory
        raise WeightsChangingError(f"{directory} is written to while the model is loaded.")


def settings_of(model: VideoModel, weights_digest: str) -> ModelSettings:
    """A VideoModel, with those weights, as settings of the stages."""
    spec = model.spec
    return ModelSettings(
        name=model.metadata.name,
        family=spec.family,
        directory=spec.source.directory,
        weights_digest=weights_digest,
        precision=spec.precision.value,
        components=components_of(model),
        adapters=adapters_of(model),
        sampling=Sampling(**dict(spec.sampling)) if spec.sampling else None,
        images=Images(**spec.images.wire()) if spec.images else None,
    )


def components_of(model: VideoModel) -> Components:
    """Where components of a VideoModel differ from the rest of it."""
    return tuple(
        Component(
            name=one.name,
            directory=one.directory,
            format=one.format.value if one.format else None,
            weights=one.weights.value if one.weights else None,
            on_cpu=one.device is ComponentDevice.CPU,
        )
        for one in model.spec.components
    )


def adapters_of(model: VideoModel) -> Adapters:
    """The adapters of a VideoModel."""
    return tuple(Adapter(**dict(one)) for one in model.spec.adapters)


def _on_triton(name: str) -> list[str]:
    """Names on the server of a model's stages, in the order of their end: the ensemble first."""
    return [model_name(name, stage) for stage in reversed(STAGES)]
