from videojob.families import ComponentName
from videojob.models.family import family_module
from videojob.models.parts import Parts
from videojob.models.runtime import chunk_errors, fix_kernels, keep_memory
from videojob.models.stages import DenoiseStage, Turn
from videojob.models.stopwatch import stopwatch_on
from videojob.models.tensors import pack, unpack
from videojob.triton import contract
from videojob.triton.backend import Instance, answer, binary, claimed, contents, ended, requested, started
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

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        wanted, sequence = requested(request), request.correlation_id()
        if isinstance(wanted, End):
            self._stage.end(sequence)
            self._marks.clear(sequence)
            checkpoint, seconds = b"", 0.0
        else:
            number = claimed(request)
            self._claim.check(number)
            with self._progress.on(wanted), chunk_errors(f"The denoiser on unit {wanted.unit.index}"):
                past = [unpack(file, contract.PAST) for file in contents(request, contract.PAST)]
                conditions = [unpack(file, contract.CONDITIONS) for file in contents(request, contract.CONDITIONS)]
                made = self._stage.make(
                    Turn(sequence, started(request), ended(request), past),
                    wanted,
                    next(iter(conditions), None),
                    cancelled=self._progress.stepped(
                        lambda: self._marks.marked(sequence) or self._claim.superseded(number)
                    ),
                )
                checkpoint, seconds = pack(made.tensors), made.seconds
        return [binary(contract.CHECKPOINT, checkpoint), binary(contract.REPORT, Report(seconds).to_json())]
