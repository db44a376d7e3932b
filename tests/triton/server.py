"""A real tritonserver for tests, and a client that speaks the contract."""

import queue
import subprocess
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from dev.control_plane import free_ports
from dev.processes import die_with_parent
from dev.tritonserver import command, remove_stale_regions
from videojob.families import FAMILIES, Chunking, FamilyName, Shot, Video
from videojob.triton import contract
from videojob.triton.contract import ErrorCode, model_name, reason_of
from videojob.triton.wire import End, Settings, UnitRequest, read_report

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
    """What came of one unit, or why it was not made."""

    unit: int
    tensors: Mapping[str, Array] = field(default_factory=dict)
    reason: ErrorCode | None = None
    message: str = ""

    @property
    def frames(self) -> Array:
        return self._tensor(contract.FRAMES)

    @property
    def checkpoint(self) -> bytes:
        return bytes(self._tensor(contract.CHECKPOINT)[0])

    def seconds(self, report: str) -> float:
        return read_report(self._tensor(report)[0]).seconds

    def _tensor(self, name: str) -> Array:
        assert name in self.tensors, f"unit {self.unit} was not made: {self.message}"
        return self.tensors[name]


SETTINGS = Settings("a cat", seed=7, width=48, height=32, fps=16.0, guidance_scale=1.0)
STEPS = 2
CHUNKING = Chunking(first=1, later=3, sink=1, window=6)
PLAN = FAMILIES[FamilyName.ANYFLOW_FAR].plan(CHUNKING, Video((Shot(400),), 16, STEPS))
"""With a memory of the first chunk and the last two."""
END = -1
"""The unit of an answer to an end."""


class Stream:
    """Requests of one sequence on one gRPC stream, in order."""

    def __init__(self, server: Server, video_model: str, sequence: str, **settings: Any) -> None:
        self._client = grpc.InferenceServerClient(server.grpc)
        self._model = model_name(video_model, "video_chunk")
        self._sequence = sequence
        self._settings = replace(SETTINGS, **settings)
        self._answers: queue.Queue[tuple[Any, Exception | None]] = queue.Queue()
        self._sent: queue.Queue[int] = queue.Queue()
        self._client.start_stream(lambda result, error: self._answers.put((result, error)))

    def send(
        self,
        index: int,
        *,
        start: bool | None = None,
        end: bool = False,
        past: Mapping[int, bytes] = MappingProxyType({}),
        steps: int = STEPS,
    ) -> None:
        """Send a unit's request; unit 0 starts the sequence by default."""
        wanted = UnitRequest(replace(PLAN.units[index], steps=steps), self._settings, tuple(past))
        self.send_raw(wanted.to_json(), index, index == 0 if start is None else start, end, [*past.values()])

    def send_raw(
        self,
        request: bytes,
        index: int,
        start: bool,
        end: bool,
        past: Sequence[bytes] = (),
        partial: Sequence[bytes] = (),
    ) -> None:
        """Send a request whose REQUEST is these bytes."""
        files = {contract.REQUEST: [request], contract.PAST: past, contract.PARTIAL: partial}
        inputs = [_binary(name, *values) for name, values in files.items() if values]
        self._client.async_stream_infer(
            self._model, inputs, sequence_id=self._sequence, sequence_start=start, sequence_end=end
        )
        self._sent.put(index)

    def answer(self) -> Answer:
        """The answer to the oldest request without one."""
        result, error = self._answers.get(timeout=ANSWER_SECONDS)
        index = self._sent.get_nowait()
        if error is not None:
            found = reason_of(str(error))
            return Answer(index, reason=found and found[0], message=str(error))
        names = [output.name for output in result.get_response().outputs]
        return Answer(index, {name: result.as_numpy(name) for name in names})

    def make(self, indexes: Iterable[int], depth: int = 2) -> list[Answer]:
        """Units in order, `depth` requests in flight."""
        answers: list[Answer] = []
        in_flight = 0
        for index in indexes:
            self.send(index)
            in_flight += 1
            if in_flight == depth:
                answers.append(self.answer())
                in_flight -= 1
        return answers + [self.answer() for _ in range(in_flight)]

    def end(self, *, start: bool = True) -> Answer:
        """End the sequence, whatever state each model is in."""
        self.send_raw(End().to_json(), END, start, end=True)
        return self.answer()

    def mark(self, *mark: str) -> bool:
        """Mark the sequence, through the server's control model: as cancelled where nothing else is said."""
        inputs = [_binary(contract.CORRELATION_ID, self._sequence.encode())]
        inputs += [_binary(contract.MARK, each.encode()) for each in mark]
        return bool(self._client.infer(contract.CONTROL_MODEL, inputs).as_numpy(contract.ACCEPTED)[0])

    def close(self) -> None:
        self._client.stop_stream()
        self._client.close()


def _binary(name: str, *values: bytes) -> grpc.InferInput:
    tensor = grpc.InferInput(name, [len(values)], "BYTES")
    tensor.set_data_from_numpy(np.array(values, dtype=np.object_))
    return tensor
