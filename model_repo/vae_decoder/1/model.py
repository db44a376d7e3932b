import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from videojob.models.family import family_module
from videojob.models.runtime import DTYPES, chunk_errors, fix_kernels
from videojob.models.stages import DecodeStage, Timed, Turn
from videojob.triton import contract
from videojob.triton.backend import Instance, answer, claimed, ended, scalar, started, tensor


class TritonPythonModel:
    """Latents and the sequence's feature cache to the frames of a chunk."""

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        instance = Instance(args)
        fix_kernels(instance.replica.threads)
        self._marks = instance.marks
        self._claim = instance.claim
        family = family_module(instance.model.family)
        self._stage = DecodeStage(
            family.VideoDecoder(instance.directory, torch.device(instance.device), DTYPES[instance.model.precision]),
            instance.sequences(),
            instance.model.layout,
        )

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        sequence = request.correlation_id()
        turn = Turn(sequence, scalar(request, contract.CHUNK), started(request), ended(request))
        if turn.only_ends:
            self._stage.end(sequence)
            made = Timed(torch.empty(0, 1, 1, 3, dtype=torch.uint8), 0.0)
        else:
            number = claimed(request)
            self._claim.check(number)
            tail = tensor(request, contract.TAIL)
            with chunk_errors(f"The VAE decoder on chunk {turn.chunk}"):
                made = self._stage.make(
                    turn,
                    torch.from_dlpack(tensor(request, contract.LATENTS)),
                    None if tail is None else torch.from_dlpack(tail),
                    cancelled=lambda: self._marks.marked(sequence) or self._claim.superseded(number),
                )
        return [
            pb_utils.Tensor.from_dlpack(contract.FRAMES, made.tensor),
            pb_utils.Tensor(contract.DECODE_SECONDS, np.array([made.seconds], np.float32)),
        ]
