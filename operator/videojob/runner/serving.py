"""Keeps the pool's VideoModels loaded on the Triton server, through its restarts, and says how each of them is."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential

from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import VideoModel
from videojob.runner.triton import Triton, TritonGoneError, TritonRefusedError
from videojob.triton.contract import STAGES, model_name
from videojob.triton.digest import weights_digest
from videojob.triton.repository import remove, render, render_control
from videojob.triton.settings import ModelSettings, ReplicaSettings

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between looks at whether Triton still has a model: a restarted one has none."""
HUNG_POLLS = 3
"""Unanswered looks in a row after which Triton counts as hung."""
LONGEST_PAUSE = 30.0
MESSAGE_LIMIT = 512


@dataclass
class Served:
    """A VideoModel that the server should have."""

    model: VideoModel
    state: ModelState = ModelState.LOADING
    digest: str = ""
    message: str = ""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Serving:
    """The models of one server. `changed` is called whenever the report says something new."""

    def __init__(
        self,
        triton: Triton,
        *,
        model_repository: Path,
        repository: Path,
        device: Literal["cpu", "gpu"],
        replica: ReplicaSettings,
        changed: Callable[[], None],
    ) -> None:
        self._triton = triton
        self._model_repository = model_repository
        self._repository = repository
        self._device = device
        self._replica = replica
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._loading = asyncio.Lock()
        self._unloading: set[asyncio.Task[None]] = set()
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

    async def ready(self, name: str, seconds: float) -> Served:
        """The model, once the server has it. Raises TritonGoneError, with the reason, after `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    served = self._served.get(name)
                    if served is not None and served.ready.is_set():
                        return served
                    await (served.ready.wait() if served else asyncio.sleep(POLL_SECONDS))
        except TimeoutError:
            served = self._served.get(name)
            why = self.error or (served.message if served else "this replica does not serve it") or "it is loading"
            raise TritonGoneError(f"The model {name} was not ready within {seconds:g} s: {why}.") from None

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
        for name, model in models.items():
            if name in self._served:
                self._served[name].model = model
            else:
                served = self._served[name] = Served(model)
                served.task = asyncio.create_task(self._keep(served), name=f"model {name}")
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
        tasks = [served.task for served in self._served.values() if served.task] + [*self._unloading]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, served: Served) -> None:
        """Load the model, and load it again whenever the server has lost it, for ever."""

        def failed(state: RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, TritonGoneError):
                self._set(served, ModelState.LOADING, str(error))
            else:
                self._set(served, ModelState.FAILED, str(error))
                log.warning("The model %s was not loaded: %s", served.model.metadata.name, error)

        while True:
            async for attempt in AsyncRetrying(
                wait=wait_exponential(multiplier=0.5, max=LONGEST_PAUSE),
                retry=retry_if_exception_type(Exception),
                before_sleep=failed,
            ):
                with attempt:
                    await self._load(served)
            log.info("The model %s is loaded.", served.model.metadata.name)
            self._set(served, ModelState.READY, "")
            while await self._still_ready(served.model.metadata.name):
                served.ready.set()
                await asyncio.sleep(POLL_SECONDS)
            log.warning("Triton has lost the model %s, which is loaded again.", served.model.metadata.name)
            self._set(served, ModelState.LOADING, "Triton was restarted.")

    async def _load(self, served: Served) -> None:
        name = served.model.metadata.name
        settings = settings_of(served.model)
        await self._triton.check()
        served.digest = await asyncio.to_thread(weights_digest, Path(settings.directory))
        async with self._loading:
            before = self._rendered(name)
            ensemble = await asyncio.to_thread(
                render, self._model_repository, self._repository, settings, self._replica, self._device
            )
            # A runner that was restarted finds the model loaded, as long as it is still the same.
            if before != self._rendered(name) or not await self._still_ready(name):
                await self._triton.load(ensemble)
            control = await asyncio.to_thread(render_control, self._model_repository, self._repository, self._replica)
            if not await self._triton.model_ready(control):
                await self._triton.load(control)

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
        if served.task:
            served.task.cancel()
        task = asyncio.create_task(self._unload(name))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)

    async def _unload(self, name: str) -> None:
        async with self._loading:
            if name in self._served:
                return
            try:
                await self._triton.unload(model_name(name, "video_chunk"))
            except (TritonGoneError, TritonRefusedError) as error:
                log.warning("The model %s was not unloaded: %s", name, error)
            await asyncio.to_thread(remove, self._repository, name)

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
