"""The Triton server of the replica, as the runner uses it: every call has a time limit, no request is ever cancelled.

A gRPC cancel does not reach the models inside an ensemble and can leave a request in flight for ever
(triton-inference-server/server #6739). So a sequence is stopped by marking it through the `control` model and ended
with an `End`, and its stream is closed only once every answer has come or the server is gone.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import grpc
import numpy as np
from tritonclient.grpc import InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient
from tritonclient.utils import InferenceServerException

from videojob.runner.channel import channel_arguments
from videojob.runner.tensor import Array, Tensor
from videojob.runner.vigil import LOOK_SECONDS, Vigil
from videojob.triton import contract
from videojob.triton.progress import Progress, read_progress
from videojob.triton.wire import End, Report, UnitRequest, read_report

T = TypeVar("T")
log = logging.getLogger(__name__)

CALL_SECONDS = 10.0
LOAD_SECONDS = 1800.0
"""Weights of many gigabytes, from a cold disk."""
ANSWER_SECONDS = 86_400.0
"""The longest estimate that a VideoModel may have. A stage that hangs ends the wait long before."""
CLOSE_SECONDS = 10.0

_GONE = {"StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED", "StatusCode.UNKNOWN"}


class TritonGoneError(Exception):
    """The server does not answer; the text says what happened."""


class TritonRefusedError(Exception):
    """The server answered with an error of its own; the text is its sentence."""


@dataclass(frozen=True)
class Region:
    """Shared memory that the server is to write an output to."""

    name: str
    size: int


@dataclass(frozen=True)
class Request:
    """One request of a sequence."""

    wanted: UnitRequest | End
    files: Mapping[str, Sequence[bytes]] = field(default_factory=dict)
    """What it brings beside, by input; nothing where there is nothing."""
    start: bool = False
    end: bool = False
    frames_to: Region | None = None

    def inputs(self) -> list[Tensor]:
        """What it carries."""
        files = [Tensor.binary(name, *values) for name, values in self.files.items() if values]
        return [Tensor.binary(contract.REQUEST, self.wanted.to_json()), *files]


class Answer:
    """What the server answered to one request."""

    def __init__(self, result: Any, arrived: float) -> None:
        self._result = result
        self.arrived = arrived
        """When it came, in seconds of the event loop's clock; it may be taken later."""

    def array(self, output: str) -> Array:
        """An output that came with the answer."""
        values: Array | None = self._result.as_numpy(output)
        if values is None:
            raise TritonRefusedError(f"Triton's answer has no output {output}.")
        return values

    def shape(self, output: str) -> tuple[int, ...]:
        """The shape of an output, wherever its contents are."""
        return tuple(self._result.get_output(output).shape)

    def binary(self, output: str) -> bytes:
        """The only element of a BYTES output."""
        return bytes(self.array(output).reshape(-1)[0])

    @property
    def report(self) -> Report:
        """The stage's report."""
        return read_report(self.binary(contract.REPORT))

    @property
    def seconds(self) -> float:
        """Seconds of computing."""
        return self.report.seconds


class Triton:
    """A connection to one server."""

    def __init__(self, url: str, identity: str = "", monotonic: Callable[[], float] = time.monotonic) -> None:
        """`identity` is the runner's, for its claim of the server. `monotonic` is a clock in seconds."""
        self.url = url
        self._identity = identity
        self.claim_number = 0
        """Of the claim that requests are made under."""
        self._client = InferenceServerClient(url, channel_args=channel_arguments(url))
        self._streams: set[Stream] = set()
        self.vigil = Vigil(self, monotonic)

    async def close(self) -> None:
        """Close the connection."""
        await self._client.close()

    async def check(self) -> None:
        """Raises TritonGoneError where the server does not answer."""
        try:
            # Live, not ready: a server that loads a model is not ready.
            live = await self._call(self._client.is_server_live(client_timeout=CALL_SECONDS))
        except TritonRefusedError as error:
            raise TritonGoneError(str(error)) from error
        if not live:
            raise TritonGoneError(f"Triton at {self.url} says that it is not alive.")

    async def model_ready(self, name: str) -> bool:
        """Whether the server has the model. Raises TritonGoneError."""
        try:
            return bool(await self._call(self._client.is_model_ready(name, client_timeout=CALL_SECONDS)))
        except TritonRefusedError:
            return False

    async def load(self, name: str) -> None:
        """Load a model from the repository: an ensemble with its steps. Raises TritonGoneError, TritonRefusedError."""
        await self._call(self._client.load_model(name, client_timeout=LOAD_SECONDS), LOAD_SECONDS)

    async def unload(self, name: str) -> None:
        """Unload an ensemble with its steps. Raises TritonGoneError, TritonRefusedError."""
        await self._call(self._client.unload_model(name, unload_dependents=True, client_timeout=CALL_SECONDS))

    async def present(self) -> set[str]:
        """Names of the models that the server has, or is loading or unloading. Raises TritonGoneError."""
        index = await self._call(self._client.get_model_repository_index(client_timeout=CALL_SECONDS))
        return {model.name for model in index.models if model.state not in {"", "UNAVAILABLE"}}

    async def claim(self) -> int | None:
        """Claim the server for this runner, by its number; that of the claim in force where it is another runner's.

        Raises TritonGoneError, TritonRefusedError.
        """
        answer = await self._ask_control(
            Tensor(contract.CLAIM, np.array([self.claim_number], dtype=np.int64)),
            Tensor.binary(contract.IDENTITY, self._identity.encode()),
        )
        accepted = bool(answer.as_numpy(contract.ACCEPTED)[0])
        return None if accepted else int(answer.as_numpy(contract.CLAIM)[0])

    async def mark(self, correlation_id: str, mark: contract.Mark, run: int | None = None) -> None:
        """Mark a sequence: its stages stop at the next step, in that run and those before it, or in any.

        Raises TritonGoneError, TritonRefusedError.
        """
        await self._ask_control(
            Tensor.binary(contract.CORRELATION_ID, correlation_id.encode()),
            Tensor.binary(contract.MARK, mark.encode()),
            *([] if run is None else [Tensor(contract.RUN, np.array([run], dtype=np.int64))]),
        )

    async def progress(self, stage: str) -> Progress | None:
        """The note of a stage, by its name on the server; None where it is not known, for whatever reason."""
        try:
            answer = await self._ask_control(Tensor.binary(contract.STAGE, stage.encode()))
        except (TritonGoneError, TritonRefusedError):
            return None
        noted = answer.as_numpy(contract.PROGRESS)
        return None if noted is None else read_progress(noted[0])

    async def end_stage(self, stage: str, seen: Progress) -> bool:
        """End the process of a stage that hangs since it was `seen`; whether it is gone, as far as is known."""
        try:
            answer = await self._ask_control(
                Tensor.binary(contract.STAGE, stage.encode()), Tensor.binary(contract.HUNG, seen.to_json())
            )
        except (TritonGoneError, TritonRefusedError) as error:
            log.warning("The process of %s was not ended: %s", stage, error)
            return False
        return bool(answer.as_numpy(contract.ACCEPTED)[0])

    async def _ask_control(self, *tensors: Tensor) -> Any:
        """What `control` answers. Raises TritonGoneError, TritonRefusedError."""
        inputs = [each.to_triton() for each in tensors]
        parameters = {contract.CLAIM_PARAMETER: self.claim_number}
        return await self._call(
            self._client.infer(contract.CONTROL_MODEL, inputs, parameters=parameters, client_timeout=CALL_SECONDS)
        )

    async def register(self, region: Region) -> None:
        """Let the server map a region. Raises TritonRefusedError where it is on another machine; TritonGoneError."""
        await self._call(
            self._client.register_system_shared_memory(
                region.name, f"/{region.name}", region.size, client_timeout=CALL_SECONDS
            )
        )

    async def unregister(self, name: str) -> None:
        """Let the server drop a region. Raises TritonGoneError, and TritonRefusedError where a request uses it."""
        await self._call(self._client.unregister_system_shared_memory(name, client_timeout=CALL_SECONDS))

    async def registered(self) -> set[str]:
        """Names of the regions that the server has mapped. Raises TritonGoneError, TritonRefusedError."""
        status = await self._call(self._client.get_system_shared_memory_status(client_timeout=CALL_SECONDS))
        return set(status.regions)

    def stream(
        self, model: str, stage: contract.Stage, correlation_id: str, unit_seconds: float = 0.0, run: int = 0
    ) -> "Stream":
        """Open a sequence, in that run of it, on a stage of a VideoModel. Call it where an event loop runs.

        `unit_seconds` is the estimate of a whole unit, where there is one.
        """
        name = contract.model_name(model, stage)
        parameters = {contract.CLAIM_PARAMETER: self.claim_number, contract.RUN_PARAMETER: run}
        stream = Stream(self._client, name, _OUTPUTS[stage], correlation_id, parameters, self.vigil, unit_seconds)
        self._streams.add(stream)
        stream.reader.add_done_callback(lambda _: self._streams.discard(stream))
        return stream

    def give_up(self, why: str) -> None:
        """Fail every stream, because the server hangs: their tasks would otherwise wait for answers that never come."""
        for stream in tuple(self._streams):
            stream.fail(TritonGoneError(why))

    async def _call(self, request: Awaitable[T], seconds: float = CALL_SECONDS) -> T:
        try:
            # gRPC has the same limit; this one also ends calls whose channel hangs before they are sent.
            async with asyncio.timeout(seconds + 1):
                return await request
        except InferenceServerException as error:
            if error.status() in _GONE:
                raise TritonGoneError(f"Triton at {self.url} does not answer: {error.message()}") from error
            raise TritonRefusedError(str(error.message())) from error
        except (TimeoutError, grpc.RpcError) as error:
            raise TritonGoneError(f"Triton at {self.url} does not answer: {error or 'it took too long'}") from error


class Stream:
    """One gRPC stream to one model, with the requests of one correlation id: answers come in the order of the requests.

    Single calls may overtake each other on their way to the server, requests on a stream cannot.
    """

    def __init__(
        self,
        client: InferenceServerClient,
        model: str,
        outputs: Sequence[str],
        correlation_id: str,
        parameters: Mapping[str, int],
        vigil: Vigil,
        unit_seconds: float,
    ) -> None:
        self._vigil = vigil
        self._unit_seconds = unit_seconds
        self.correlation_id = correlation_id
        self._outputs = outputs
        self._parameters = parameters
        self.model = model
        self._requests: asyncio.Queue[Request | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Answer | Exception] = asyncio.Queue()
        self._failure: TritonGoneError | None = None
        self.unanswered = 0
        """Requests whose answer has not been taken yet."""
        self.reader = asyncio.create_task(self._read(client))

    def send(self, request: Request) -> None:
        """Send a request, behind those sent before."""
        self.unanswered += 1
        self._requests.put_nowait(request)

    async def answer(self) -> Answer:
        """The next answer, however long the stage makes steps.

        Raises ChunkError for a chunk that was not made, TritonGoneError where no answer is to be expected.
        """
        if self._failure and self._answers.empty():
            raise self._failure
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._awaited()
        except TimeoutError:
            raise TritonGoneError(f"{self.model} has not answered for {ANSWER_SECONDS:g} s.") from None
        self.unanswered -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _awaited(self) -> Answer | Exception:
        while True:
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    answer = await self._answers.get()
            except TimeoutError:
                if why := await self._vigil.look(self.model, self._unit_seconds):
                    raise TritonGoneError(why) from None
            else:
                self._vigil.answered(self.model)
                return answer

    async def end(self) -> list[Answer | Exception]:
        """End the sequence, whatever state it is in, and return what was still in flight before, in order.

        Waits for at most as long as a step should take. Whoever gets fewer answers than requests were in flight must
        take for granted that the server may still write to their regions. Raises nothing.
        """
        before: list[Answer | Exception] = []
        in_flight = self.unanswered
        self.send(Request(End(), start=True, end=True))
        try:
            async with asyncio.timeout(self._vigil.step_seconds(self.model, self._unit_seconds)):
                for _ in range(in_flight):
                    try:
                        before.append(await self.answer())
                    except contract.ChunkError as error:
                        before.append(error)
                await self.answer()
        except (TimeoutError, TritonGoneError, contract.ChunkError) as error:
            what = f"The sequence {self.correlation_id} on {self.model}"
            log.warning("%s was not ended in order: %s", what, error or "no answer")
        return before

    async def close(self) -> None:
        """Close the stream. Call it when the last answer has been taken, or the server is gone."""
        self._requests.put_nowait(None)
        await asyncio.wait({self.reader}, timeout=CLOSE_SECONDS)

    def fail(self, error: TritonGoneError) -> None:
        """Give every waiting and later caller this error."""
        self._failure = error
        self._answers.put_nowait(error)

    async def _read(self, client: InferenceServerClient) -> None:
        try:
            async for result, error in client.stream_infer(self._outgoing()):
                arrived = asyncio.get_running_loop().time()
                failed = None if error is None else contract.chunk_error(str(error.message()), self.model)
                self._answers.put_nowait(failed or Answer(result, arrived))
        except (grpc.RpcError, InferenceServerException) as error:
            text = error.details() if isinstance(error, grpc.aio.AioRpcError) else str(error)
            self.fail(TritonGoneError(f"The connection to Triton broke: {text}"))
        except asyncio.CancelledError:
            self.fail(TritonGoneError("The connection to Triton was closed."))
            raise
        else:
            self.fail(TritonGoneError("Triton closed the connection."))

    async def _outgoing(self) -> AsyncIterator[dict[str, Any]]:
        while (request := await self._requests.get()) is not None:
            yield {
                "model_name": self.model,
                "inputs": [tensor.to_triton() for tensor in request.inputs()],
                "outputs": [_output(name, request.frames_to) for name in self._outputs],
                "sequence_id": self.correlation_id,
                "sequence_start": request.start,
                "sequence_end": request.end,
                "parameters": dict(self._parameters),
            }


_OUTPUTS: dict[contract.Stage, tuple[str, ...]] = {
    "text_encoder": (contract.CONDITIONS, contract.REPORT),
    "denoiser": (contract.CHECKPOINT, contract.REPORT),
    "vae_decoder": (contract.FRAMES, contract.REPORT),
}


def _output(name: str, frames_to: Region | None) -> InferRequestedOutput:
    output = InferRequestedOutput(name)
    if name == contract.FRAMES and frames_to is not None:
        output.set_shared_memory(frames_to.name, frames_to.size)
    return output
