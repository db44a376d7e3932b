import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from videojob.triton import contract
from videojob.triton.backend import answer, text
from videojob.triton.marks import CancelMarks


class TritonPythonModel:
    """Marks a sequence as cancelled; the stages look for the mark between two steps."""

    def initialize(self, args):
        """Load, once, as Triton's python backend asks."""
        parameters = json.loads(args["model_config"])["parameters"]
        self._marks = CancelMarks(Path(parameters["control_dir"]["string_value"]))
        self._mark_seconds = float(parameters["mark_seconds"]["string_value"])

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        self._marks.sweep(before=time.time() - self._mark_seconds)
        self._marks.mark(text(request, contract.CORRELATION_ID))
        return [pb_utils.Tensor(contract.ACCEPTED, np.array([True]))]
