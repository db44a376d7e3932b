import gc

# Until the model is loaded: see backend.collect_from_here.
gc.disable()

from videojob.families import ComponentName
from videojob.models.family import family_module
from videojob.models.parts import Parts
from videojob.models.runtime import chunk_errors, fix_kernels, keep_memory
from videojob.models.stages import TextStage
from videojob.models.stopwatch import stopwatch_on
from videojob.models.tensors import pack
from videojob.triton import contract
from videojob.triton.backend import Instance, answer, binary, collect_from_here, contents, requested
from videojob.triton.wire import End, Report


class TritonPythonModel:
    """A job's settings and images to the conditions of its units."""

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        instance = Instance(args)
        fix_kernels(instance.replica.threads)
        keep_memory()
        self._progress = instance.progress
        family = family_module(instance.model.family)
        parts = Parts.of(instance.model, instance.device)
        stopwatch = stopwatch_on(parts[ComponentName.TEXT_ENCODER].device)
        self._stage = TextStage(family.Conditioner(parts), stopwatch=stopwatch)
        collect_from_here()

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        wanted = requested(request)
        if isinstance(wanted, End):
            conditions, seconds = b"", 0.0
        else:
            with self._progress.on(wanted), chunk_errors("The text encoder"):
                made = self._stage.encode(wanted, contents(request, contract.IMAGES))
            conditions, seconds = pack(made.tensors), made.seconds
        return [binary(contract.CONDITIONS, conditions), binary(contract.REPORT, Report(seconds).to_json())]
