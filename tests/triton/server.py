"""A real tritonserver for tests, and a client that speaks the contract."""

import queue
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from dev.control_plane import free_ports
from dev.processes import die_with_parent
from dev.tritonserver import command, remove_stale_regions
from videojob.triton import contract
from videojob.triton.contract import ErrorCode, model_name, reason_of

READY_SECONDS = 60
ANSWER_SECONDS = 120


@dataclass(frozen=True)
class Server:
    """A running tritonserver on `repository`, with no model loaded at first."""

    repository: Path
    grpc_port: int
    http_port: int
    metrics_port: int
    pid: int
    log: Path

    @property
    def grpc(self) -> str:
        """Address for gRPC clients."""
        return f"127.0.0.1:{self.grpc_port}"


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Start a tritonserver on `folder`/repository and stop it at the end."""
    repository = folder / "repository"
    repository.mkdir(parents=True, exist_ok=True)
    grpc_port, http_port, metrics_port = free_ports(3)
    argv, environment = command(repository, grpc_port=grpc_port, http_port=http_port, metrics_port=metrics_port)
    log = folder / "tritonserver.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent(),  # noqa: PLW1509 - it only makes two system calls
        )
    server = Server(repository, grpc_port, http_port, metrics_port, process.pid, log)
    try:
        _wait_until_ready(server, process)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        remove_stale_regions(repository)


def _wait_until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with grpc.InferenceServerClient(server.grpc) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                pytest.fail(f"tritonserver ended with status {process.returncode}:\n{server.log.read_text()[-4000:]}")
            try:
                if client.is_server_ready():
                    return
            except InferenceServerException:
                pass
            time.sleep(0.05)
    pytest.fail(f"tritonserver was not ready within {READY_SECONDS} s; see {server.log}.")


Array = NDArray[Any]


@dataclass(frozen=True)
class Answer:
    """One chunk, or why it was not made."""

    chunk: int
    tensors: Mapping[str, Array] = field(default_factory=dict)
    reason: ErrorCode | None = None
    message: str = ""

    @property
    def frames(self) -> Array:
        return self._tensor(contract.FRAMES)

    @property
    def latents(self) -> Array:
        return self._tensor(contract.LATENTS)

    def seconds(self, name: str) -> float:
        return float(self._tensor(name)[0])

    def _tensor(self, name: str) -> Array:
        assert name in self.tensors, f"chunk {self.chunk} was not made: {self.message}"
        return self.tensors[name]


JOB: dict[str, Any] = {
    contract.PROMPT: "a cat",
    contract.SEED: 7,
    contract.SHOT: 0,
    contract.WIDTH: 48,
    contract.HEIGHT: 32,
    contract.STEPS: 2,
    contract.GUIDANCE_SCALE: 1.0,
}
_DATATYPES = {
    contract.PROMPT: "BYTES",
    contract.SEED: "INT64",
    contract.SHOT: "INT32",
    contract.CHUNK: "INT32",
    contract.WIDTH: "INT32",
    contract.HEIGHT: "INT32",
    contract.STEPS: "INT32",
    contract.GUIDANCE_SCALE: "FP32",
    contract.MEMORY: "FP32",
    contract.TAIL: "FP32",
}


class Stream:
    """Requests of one sequence on one gRPC stream, in order."""

    def __init__(self, server: Server, video_model: str, sequence: str, **job: Any) -> None:
        self._client = grpc.InferenceServerClient(server.grpc)
        self._model = model_name(video_model, "video_chunk")
        self._sequence = sequence
        self._job = {**JOB, **job}
        self._answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
        self._sent: queue.Queue[int] = queue.Queue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def send(self, chunk: int, *, start: bool | None = None, end: bool = False, **inputs: Any) -> None:
        """Send a chunk's request; chunk 0 starts the sequence by default."""
        values = {**self._job, contract.CHUNK: chunk, **inputs}
        self._client.async_stream_infer(
            self._model,
            [_input(name, value) for name, value in values.items()],
            sequence_id=self._sequence,
            sequence_start=chunk == 0 if start is None else start,
            sequence_end=end,
        )
        self._sent.put(chunk)

    def answer(self) -> Answer:
        """The answer to the oldest request without one."""
        result, error = self._answers.get(timeout=ANSWER_SECONDS)
        chunk = self._sent.get_nowait()
        if error is not None:
            found = reason_of(str(error))
            return Answer(chunk, reason=found and found[0], message=str(error))
        names = [output.name for output in result.get_response().outputs]
        return Answer(chunk, {name: result.as_numpy(name) for name in names})

    def make(self, chunks: Iterable[int], depth: int = 2) -> list[Answer]:
        """Chunks in order, `depth` requests in flight."""
        answers: list[Answer] = []
        in_flight = 0
        for chunk in chunks:
            self.send(chunk)
            in_flight += 1
            if in_flight == depth:
                answers.append(self.answer())
                in_flight -= 1
        return answers + [self.answer() for _ in range(in_flight)]

    def end(self) -> Answer:
        """End the sequence, whatever state each model is in."""
        self.send(contract.END_SEQUENCE, start=True, end=True)
        return self.answer()

    def cancel(self) -> bool:
        """Mark the sequence as cancelled, through the server's control model."""
        name = grpc.InferInput(contract.CORRELATION_ID, [1], "BYTES")
        name.set_data_from_numpy(np.array([self._sequence.encode()], dtype=np.object_))
        return bool(self._client.infer(contract.CONTROL_MODEL, [name]).as_numpy(contract.ACCEPTED)[0])

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


def _input(name: str, value: Any) -> grpc.InferInput:
    datatype = _DATATYPES[name]
    if datatype == "BYTES":
        array = np.array([value.encode() if isinstance(value, str) else value], dtype=np.object_)
    elif isinstance(value, np.ndarray):
        array = value
    else:
        array = np.array([value], dtype=triton_to_np_dtype(datatype))
    tensor = grpc.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor
