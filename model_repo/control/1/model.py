import json
import time
from pathlib import Path

import numpy as np
import triton_python_backend_utils as pb_utils

from videojob.triton import contract
from videojob.triton.backend import answer, binary, claimed, scalar, tensor, text
from videojob.triton.claim import Claim, ServerClaim
from videojob.triton.contract import ChunkError, ErrorCode, Mark
from videojob.triton.marks import Marks
from videojob.triton.progress import ProgressNotes, read_progress


class TritonPythonModel:
    """Marks a sequence that is to stop, or takes a runner's claim; the stages look for both between two steps.

    Where a stage makes none any more, a runner can see that here, and have its process ended.
    """

    def initialize(self, args):
        """Load the model; Triton calls it once."""
        parameters = json.loads(args["model_config"])["parameters"]
        directory = Path(parameters["control_dir"]["string_value"])
        self._marks = Marks(directory)
        self._claim = ServerClaim(directory)
        self._notes = ProgressNotes(directory)
        self._mark_seconds = float(parameters["mark_seconds"]["string_value"])

    def execute(self, requests):
        """One response to each request."""
        return answer(requests, self._respond)

    def _respond(self, request):
        accepted, progress = True, None
        if tensor(request, contract.STAGE) is not None:
            stage = text(request, contract.STAGE)
            progress = self._notes.of(stage)
            if tensor(request, contract.HUNG) is not None:
                self._claim.check(claimed(request))
                hung = read_progress(scalar(request, contract.HUNG))
                accepted = hung is not None and self._notes.end(stage, hung)
        elif tensor(request, contract.CLAIM) is None:
            self._marks.sweep(before=time.time() - self._mark_seconds)
            run = None if tensor(request, contract.RUN) is None else scalar(request, contract.RUN)
            self._marks.mark(text(request, contract.CORRELATION_ID), _mark(request), run)
        else:
            claim = Claim(scalar(request, contract.CLAIM), text(request, contract.IDENTITY))
            accepted = self._claim.claim(claim) == claim
        return [
            pb_utils.Tensor(contract.ACCEPTED, np.array([accepted])),
            pb_utils.Tensor(contract.CLAIM, np.array([self._claim.current().number], np.int64)),
            binary(contract.PROGRESS, b"" if progress is None else progress.to_json()),
        ]


def _mark(request):
    """Which mark is asked for."""
    if tensor(request, contract.MARK) is None:
        return Mark.CANCEL
    asked = text(request, contract.MARK)
    try:
        return Mark(asked)
    except ValueError as error:
        sentence = f"MARK must be {' or '.join(Mark)}, not {asked!r}."
        raise ChunkError(ErrorCode.INVALID_REQUEST, sentence) from error
