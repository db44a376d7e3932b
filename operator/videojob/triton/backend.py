"""What the `model.py` files share: reading requests and answering them through Triton's python backend.

Importable only inside Triton, which provides `triton_python_backend_utils`.
"""

import gc
import json
import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

from videojob.triton.claim import ServerClaim
from videojob.triton.contract import CLAIM_PARAMETER, REQUEST, RUN_PARAMETER, ChunkError, ErrorCode, Mark
from videojob.triton.marks import Marks
from videojob.triton.progress import StageProgress
from videojob.triton.sequences import Sequences
from videojob.triton.settings import ModelSettings, ReplicaSettings, from_parameters
from videojob.triton.wire import End, UnitRequest, read_request

EXIT_SECONDS = 0.5
"""For a response to leave the process before its end."""


class Instance:
    """What Triton passed to this model instance when it loaded it.

    Raises pb_utils.TritonModelException with a sentence where the configuration is unusable.
    """

    def __init__(self, args: dict[str, str]) -> None:
        self._config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in self._config.get("parameters", {}).items()}
        self.model: ModelSettings
        self.replica: ReplicaSettings
        self.model, self.replica = from_parameters(parameters)
        self.device = "cpu" if args["model_instance_kind"] == "CPU" else f"cuda:{args['model_instance_device_id']}"
        self.marks = Marks(Path(self.replica.control_dir))
        self.claim = ServerClaim(Path(self.replica.control_dir))
        self.progress = StageProgress(Path(self.replica.control_dir), self._config["name"])

    def sequences(self) -> Sequences[Any]:
        """An empty store of sequence state, idle as long as Triton's own sequences may be."""
        batching = self._config["sequence_batching"]
        return Sequences(
            limit=self.replica.max_sequences,
            idle_seconds=int(batching["max_sequence_idle_microseconds"]) / 1e6,
            clock=time.monotonic,
        )


def collect_from_here() -> None:
    """Have Python collect garbage again, and never look at what the process has now.

    What is imported and loaded stays. Collections that looked at all of it while it came took a fifth of the time
    of the imports, and each full one after that would stop the stage for a third of a second.
    """
    gc.collect()  # What is frozen as garbage is never freed, and may hold weights.
    gc.freeze()
    gc.enable()


def started(request: Any) -> bool:
    """Whether the request starts its sequence."""
    return bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_START)


def ended(request: Any) -> bool:
    """Whether the request ends its sequence."""
    return bool(request.flags() & pb_utils.TRITONSERVER_REQUEST_FLAG_SEQUENCE_END)


def claimed(request: Any) -> int:
    """The number of the claim that the request is made under."""
    return _parameter(request, CLAIM_PARAMETER)


def run_of(request: Any) -> int:
    """Which run of its sequence the request is of."""
    return _parameter(request, RUN_PARAMETER)


def _parameter(request: Any, name: str) -> int:
    try:
        return int(json.loads(request.parameters() or "{}").get(name, 0))
    except (ValueError, TypeError) as error:
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"The parameter {name} must be a number.") from error


def asked_to_stop(request: Any, marks: Marks, claim: ServerClaim) -> Callable[[], Mark | None]:
    """Asks, each time that it is called, how the request's sequence is to stop, if it is.

    Raises ChunkError (Superseded) where a newer runner drives the server from the start.
    """
    number, run, sequence = claimed(request), run_of(request), request.correlation_id()
    claim.check(number)
    return lambda: marks.marked(sequence, run) or (Mark.CANCEL if claim.superseded(number) else None)


def tensor(request: Any, name: str) -> Any:
    """The input tensor, None where it is absent or has no elements."""
    found = pb_utils.get_input_tensor_by_name(request, name)
    return None if found is None or 0 in found.shape() else found


def scalar(request: Any, name: str) -> Any:
    """The only element of an input, as a Python number, or as bytes.

    Raises ChunkError (InvalidRequest) where the input has another number of elements.
    """
    found = tensor(request, name)
    values = [] if found is None else found.as_numpy().reshape(-1).tolist()
    if len(values) != 1:
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"{name} must hold exactly one value.")
    return values[0]


def text(request: Any, name: str) -> str:
    """The only string of an input. Raises ChunkError (InvalidRequest) where it is not UTF-8."""
    try:
        return str(scalar(request, name).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ChunkError(ErrorCode.INVALID_REQUEST, f"{name} is not valid UTF-8.") from error


def contents(request: Any, name: str) -> list[bytes]:
    """The elements of a BYTES input; none where it is absent."""
    found = tensor(request, name)
    return [] if found is None else found.as_numpy().reshape(-1).tolist()


def requested(request: Any) -> UnitRequest | End:
    """What REQUEST holds. Raises ChunkError (InvalidRequest), also for an end that leaves its sequence open."""
    wanted = read_request(scalar(request, REQUEST))
    if isinstance(wanted, End) and not ended(request):
        raise ChunkError(ErrorCode.INVALID_REQUEST, "An end has to come with sequence_end.")
    return wanted


def binary(name: str, value: bytes) -> Any:
    """A BYTES output of one element."""
    return pb_utils.Tensor(name, np.array([value], dtype=np.object_))


def answer(requests: Sequence[Any], respond: Callable[[Any], list[Any]]) -> list[Any]:
    """Responses to requests: what `respond` gives for each, or `<ErrorCode>: <sentence>` for what it raises.

    A stack trace goes to the server's log, never to the client. After AcceleratorFailed the process ends: nothing that
    it does on its accelerator can succeed any more.
    """
    responses = []
    for request in requests:
        try:
            responses.append(pb_utils.InferenceResponse(output_tensors=respond(request)))
        except Exception as error:
            if not isinstance(error, ChunkError):
                error = ChunkError(ErrorCode.MODEL_FAILED, f"{type(error).__name__} in the serving code; see its log.")
            if error.reason in {ErrorCode.MODEL_FAILED, ErrorCode.OUT_OF_MEMORY, ErrorCode.ACCELERATOR_FAILED}:
                pb_utils.Logger.log_error(traceback.format_exc())
            if error.reason is ErrorCode.ACCELERATOR_FAILED:
                # Not by sys.exit: what would be cleaned up is on the accelerator, and would wait for it.
                threading.Timer(EXIT_SECONDS, os._exit, (1,)).start()
            responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error))))
    return responses
