import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from videojob.models.family import family_module
from videojob.models.runtime import DTYPES, chunk_errors, fix_kernels
from videojob.models.stages import DenoiseRequest, DenoiseStage, Timed, Turn
from videojob.triton import contract
from videojob.triton.backend import Instance, answer, claimed, ended, scalar, started, tensor


class TritonPythonModel:
    """Embeddings, noise and the sequence's memory to the latents of a chunk."""

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        instance = Instance(args)
        fix_kernels(instance.replica.threads)
        self._dtype = DTYPES[instance.model.precision]
        self._marks = instance.marks
        self._claim = instance.claim
        family = family_module(instance.model.family)
        self._stage = DenoiseStage(
            family.Denoiser(instance.directory, torch.device(instance.device), self._dtype),
            instance.sequences(),
            instance.model.layout,
            sink_latents=instance.model.sink_latents,
            window_latents=instance.model.window_latents,
        )

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        sequence = request.correlation_id()
        turn = Turn(sequence, scalar(request, contract.CHUNK), started(request), ended(request))
        if turn.only_ends:
            self._stage.end(sequence)
            self._marks.clear(sequence)
            made = Timed(torch.empty(0, 1, 1, 1, 1, dtype=self._dtype), 0.0)
        else:
            number = claimed(request)
            self._claim.check(number)
            memory = tensor(request, contract.MEMORY)
            with chunk_errors(f"The denoiser on chunk {turn.chunk}"):
                made = self._stage.make(
                    turn,
                    DenoiseRequest(
                        prompt_embeds=torch.from_dlpack(tensor(request, contract.PROMPT_EMBEDS)),
                        seed=scalar(request, contract.SEED),
                        shot=scalar(request, contract.SHOT),
                        width=scalar(request, contract.WIDTH),
                        height=scalar(request, contract.HEIGHT),
                        steps=scalar(request, contract.STEPS),
                        guidance_scale=scalar(request, contract.GUIDANCE_SCALE),
                        memory=None if memory is None else torch.from_dlpack(memory),
                    ),
                    cancelled=lambda: self._marks.marked(sequence) or self._claim.superseded(number),
                )
        return [
            pb_utils.Tensor.from_dlpack(contract.LATENTS, made.tensor.to(self._dtype).cpu()),
            pb_utils.Tensor(contract.DENOISE_SECONDS, np.array([made.seconds], np.float32)),
        ]
