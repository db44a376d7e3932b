import gc

# Until the model is loaded: see backend.collect_from_here.
gc.disable()

from videojob.families import ComponentName
from videojob.models.family import family_module
from videojob.models.parts import Parts
from videojob.models.runtime import chunk_errors, fix_kernels, keep_memory
from videojob.models.stages import DenoiseStage, Turn
from videojob.models.stopwatch import stopwatch_on
from videojob.models.tensors import pack, unpack
from videojob.triton import contract
from videojob.triton.backend import (
    Instance,
    answer,
    asked_to_stop,
    binary,
    collect_from_here,
    contents,
    ended,
    requested,
    run_of,
    started,
)
from videojob.triton.wire import End, Report


class TritonPythonModel:
    """Conditions, noise and what the sequence remembers to the checkpoint of a unit."""

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        instance = Instance(args)
        fix_kernels(instance.replica.threads)
        keep_memory()
        self._marks = instance.marks
        self._claim = instance.claim
        self._progress = instance.progress
        family = family_module(instance.model.family)
        parts = Parts.of(instance.model, instance.device)
        stopwatch = stopwatch_on(parts[ComponentName.TRANSFORMER].device)
        self._stage = DenoiseStage(family.Generator(parts), instance.sequences(), stopwatch=stopwatch)
        collect_from_here()

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        wanted, sequence = requested(request), request.correlation_id()
        if isinstance(wanted, End):
            self._stage.end(sequence)
            self._marks.clear(sequence, run_of(request))
            checkpoint, report = b"", Report(0.0)
        else:
            asked = self._progress.stepped(asked_to_stop(request, self._marks, self._claim))
            with self._progress.on(wanted), chunk_errors(f"The denoiser on unit {wanted.unit.index}"):
                past = [unpack(file, contract.PAST) for file in contents(request, contract.PAST)]
                conditions = [unpack(file, contract.CONDITIONS) for file in contents(request, contract.CONDITIONS)]
                partial = [unpack(file, contract.PARTIAL) for file in contents(request, contract.PARTIAL)]
                turn = Turn(sequence, started(request), ended(request), past, next(iter(partial), None))
                made = self._stage.make(turn, wanted, next(iter(conditions), None), asked)
                checkpoint, report = pack(made.tensors), Report(made.seconds, made.step, wanted.unit.steps)
        return [binary(contract.CHECKPOINT, checkpoint), binary(contract.REPORT, report.to_json())]
