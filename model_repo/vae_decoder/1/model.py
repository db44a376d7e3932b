import gc

# Until the model is loaded: see backend.collect_from_here.
gc.disable()

import torch
import triton_python_backend_utils as pb_utils

from videojob.families import ComponentName
from videojob.models.family import family_module
from videojob.models.parts import Parts
from videojob.models.runtime import chunk_errors, fix_kernels, keep_memory
from videojob.models.stages import DecodeStage, Turn
from videojob.models.stopwatch import stopwatch_on
from videojob.models.tensors import unpack
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
    started,
)
from videojob.triton.wire import End, Report


class TritonPythonModel:
    """A unit's checkpoint and the sequence's state to the frames that come out of it."""

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
        stopwatch = stopwatch_on(parts[ComponentName.VAE].device)
        self._stage = DecodeStage(family.Decoder(parts), instance.sequences(), stopwatch=stopwatch)
        collect_from_here()

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        wanted, sequence = requested(request), request.correlation_id()
        if isinstance(wanted, End):
            self._stage.end(sequence)
            frames, seconds = torch.empty(0, 1, 1, 3, dtype=torch.uint8), 0.0
        else:
            asked = self._progress.stepped(asked_to_stop(request, self._marks, self._claim))
            with self._progress.on(wanted), chunk_errors(f"The VAE decoder on unit {wanted.unit.index}"):
                past = [unpack(file, contract.PAST) for file in contents(request, contract.PAST)]
                checkpoint = [unpack(file, contract.CHECKPOINT) for file in contents(request, contract.CHECKPOINT)]
                made = self._stage.make(
                    Turn(sequence, started(request), ended(request), past),
                    wanted,
                    next(iter(checkpoint), None),
                    asked,
                )
                frames, seconds = made.frames, made.seconds
        return [
            pb_utils.Tensor.from_dlpack(contract.FRAMES, frames),
            binary(contract.REPORT, Report(seconds).to_json()),
        ]
