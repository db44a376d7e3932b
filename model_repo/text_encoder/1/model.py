import numpy as np
import torch
import triton_python_backend_utils as pb_utils

from videojob.models.family import family_module
from videojob.models.runtime import DTYPES, chunk_errors, fix_kernels
from videojob.models.stages import TextStage
from videojob.triton import contract
from videojob.triton.backend import Instance, answer, scalar, text


class TritonPythonModel:
    """Prompt to embeddings."""

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        instance = Instance(args)
        fix_kernels(instance.replica.threads)
        self._dtype = DTYPES[instance.model.precision]
        family = family_module(instance.model.family)
        self._stage = TextStage(family.TextEncoder(instance.directory, torch.device(instance.device), self._dtype))

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        if scalar(request, contract.CHUNK) == contract.END_SEQUENCE:
            embeds, seconds = torch.empty(0, 1, 1, dtype=self._dtype), 0.0
        else:
            with chunk_errors("The text encoder"):
                encoded = self._stage.encode(text(request, contract.PROMPT), scalar(request, contract.GUIDANCE_SCALE))
            embeds, seconds = encoded.tensor, encoded.seconds
        return [
            pb_utils.Tensor.from_dlpack(contract.PROMPT_EMBEDS, embeds),
            pb_utils.Tensor(contract.TEXT_SECONDS, np.array([seconds], np.float32)),
        ]
