"""Keeps the pool's VideoModels loaded on the Triton server, through its restarts, and reports the state of each.

Where the replica's memory is known and not all models fit, the least recently used that no job needs makes room for the
one that a job waits for (`residency`). What is to be done about each model follows from its state (`model_state`), and
is done by the `loader`; one task a model asks the first and calls the second.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from functools import partial

from videojob.api.replica import LoadedModel, ModelState
from videojob.api.videomodel import VideoModel
from videojob.runner.clock import Clock
from videojob.runner.kept import keep
from videojob.runner.loader import Loader
from videojob.runner.metrics import RunnerMetrics
from videojob.runner.model_state import Action, State, next_action
from videojob.runner.residency import Resident, make_room, preload
from videojob.runner.served import MESSAGE_LIMIT, Served
from videojob.runner.signals import Signal
from videojob.runner.triton import Triton, TritonGoneError

log = logging.getLogger(__name__)

POLL_SECONDS = 1.0
"""Between looks at whether Triton answers."""
HUNG_POLLS = 3
"""Unanswered looks in a row after which Triton counts as hung."""
REPORT_WAIT_SECONDS = 3.0
"""After which a job that waits for its model gets the reason on its status."""


class Serving:
    """The models of one server. `changed` is called whenever the report changes."""

    def __init__(
        self,
        triton: Triton,
        loader: Loader,
        clock: Clock,
        metrics: RunnerMetrics,
        *,
        memory_bytes: int,
        changed: Callable[[], None],
    ) -> None:
        """`memory_bytes` of the accelerator are for weights and jobs; 0 where that is not known: all models fit."""
        self._triton = triton
        self._clock = clock
        self._metrics = metrics
        self._loader = loader
        self._memory = memory_bytes or float("inf")
        self._changed = changed
        self._served: dict[str, Served] = {}
        self._leaving: list[Served] = []
        self._news = Signal()
        """Of any model: what it is, what is wanted of it, or what its jobs take has changed."""
        self._last_report: tuple[LoadedModel, ...] = ()
        self.error = ""
        """Why Triton cannot be used, if so."""

    def report(self) -> tuple[LoadedModel, ...]:
        """How each model is."""
        return tuple(self._reported(served) for _, served in sorted(self._served.items()))

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
                        self._check(served)
                        if admitted is None and self._admit(served):
                            admitted = served
                        if admitted is not None and served.usable and self._fits(served):
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
        served = self._served.get(name)
        if served is not None and served.state is State.RESIDENT:
            served.become(State.UNSURE)
            self._notify()

    def repair(self, name: str, stage: str) -> None:
        """The process of a stage has ended, of which Triton knows nothing: the stage is loaded anew."""
        if served := self._served.get(name):
            served.ended.add(stage)
            served.message = f"The process of {stage} has ended."
            served.turn()
            self._notify()

    def renew(self) -> None:
        """Have every model unloaded, and then loaded anew: what is on the accelerator makes nothing any more."""
        for served in self._served.values():
            if served.state is State.RESIDENT:
                served.become(State.LEAVING)
        self._notify()

    def want(self, models: Mapping[str, VideoModel]) -> None:
        """Serve these models and no others. One that was made anew under its old name is loaded anew."""
        for name, served in tuple(self._served.items()):
            wanted = models.get(name)
            if wanted is None or wanted.metadata.uid != served.model.metadata.uid:
                self._drop(name)
        new = [Served(model) for name, model in models.items() if name not in self._served]
        for name, known in self._served.items():
            known.see(models[name])
        self._served |= {served.name: served for served in new}
        self._served = {name: self._served[name] for name in models}  # In the pool's order.
        self._preload()
        for served in new:
            work = keep("model", partial(self._reconcile, served), self._metrics, monotonic=self._clock.monotonic)
            served.task = asyncio.create_task(work, name=f"model {served.name}")
        self._notify()

    async def run(self) -> None:
        """Check the server, for ever: whether it answers, and whether it hangs. Raises what ended a model's task."""
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
            for task in self._tasks():
                if task.done() and not task.cancelled():
                    task.result()
            await asyncio.sleep(POLL_SECONDS)

    async def claim(self) -> None:
        """Claim the server for this runner, if it can be claimed by now: else that is done once models are loaded."""
        await self._loader.claim()

    async def close(self) -> None:
        """Stop reconciling models; what is loaded stays loaded."""
        self._loader.stop()
        tasks = self._tasks()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _reconcile(self, served: Served) -> None:
        """Do what is to be done about a model, until it is removed."""
        for before in tuple(self._leaving):
            if before.name == served.name and before.task:
                await asyncio.wait({before.task})
        action = Action.WAIT
        while action is not Action.REMOVE:
            now = self._clock.monotonic()
            action = next_action(served.state, served.facts(now, room=self._fits(served)))
            if action is Action.WAIT:
                await self._news.wait(served.due(now))
                self._compare()
                continue
            was = served.state
            await self._loader.do(served, action)
            if (was, served.state) != (State.RESIDENT, State.RESIDENT):
                self._notify()
        self._leaving.remove(served)

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
        if served is not None and self._reported(served).state is ModelState.FAILED and not served.jobs:
            self._want(served, False)
            self._preload()

    def _check(self, served: Served) -> None:
        """Raises TritonGoneError where the model does not load."""
        reported = self._reported(served)
        if reported.state is ModelState.FAILED:
            raise TritonGoneError(f"The model {served.name} does not load: {reported.message}")

    def _why_not(self, name: str, admitted: Served | None) -> str:
        """Why a job does not have the model yet."""
        served = self._served.get(name)
        if self.error or served is None:
            return self.error.rstrip(".") or "this replica does not serve it"
        if message := self._reported(served).message:
            return message.rstrip(".")
        if admitted is None:
            return "jobs that run take the memory that it needs"
        return "another model has not left the memory that it needs yet" if served.usable else "it is loading"

    def _reported(self, served: Served) -> LoadedModel:
        return served.reported(self._clock.monotonic(), self._memory)

    def _residents(self) -> list[Resident]:
        return [
            Resident(
                name=name,
                weights_bytes=served.weights_bytes,
                per_job_bytes=served.model.spec.memory.per_job_bytes,
                loaded=served.wanted,
                jobs=served.jobs,
                used=float("-inf") if self._reported(served).state is ModelState.FAILED else served.used,
            )
            for name, served in self._served.items()
        ]

    def _fits(self, served: Served) -> bool:
        """Whether what is on the accelerator leaves room for the weights: what has to go may not be gone yet."""
        others = [other for other in (*self._served.values(), *self._leaving) if other is not served]
        own = served.weights_bytes + served.jobs * served.model.spec.memory.per_job_bytes
        return own + sum(other.held_bytes for other in others) <= self._memory

    def _want(self, served: Served, wanted: bool) -> None:
        if served.wanted is not wanted:
            served.wanted = wanted
            served.turn()
            self._notify()

    def _drop(self, name: str) -> None:
        served = self._served.pop(name)
        self._leaving.append(served)
        served.wanted, served.dropped = False, True
        served.turn()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [served.task for served in (*self._served.values(), *self._leaving) if served.task]

    def _notify(self) -> None:
        """Have everybody look again who waits for a model or for memory."""
        self._news.give()
        self._compare()

    def _compare(self) -> None:
        """Call `changed` where the report is another one."""
        report = self.report()
        if report != self._last_report:
            self._last_report = report
            self._changed()

    def _set_error(self, error: str) -> None:
        if error != self.error:
            log.log(logging.WARNING if error else logging.INFO, error or "Triton answers.")
            self.error = error[:MESSAGE_LIMIT]
            self._changed()
