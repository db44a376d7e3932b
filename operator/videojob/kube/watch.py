"""A watch that goes on whatever comes: what else may answer in the API server's place ends neither operator nor runner.

A stream that broke goes on from the last version that it brought. All is listed again where changes may have been
missed: the version is too old, the server reports an error or refused, or several answers in a row made no sense.
"""

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from videojob.kube.answers import AnswerError, Json, KubeError, identified, read_object

logger = logging.getLogger(__name__)

LINE_LIMIT = 8 * 2**20
"""Bytes of one event: etcd stores objects of up to 1.5 MiB, which take more as JSON."""
RELIST_AFTER = 3
"""So many answers in a row that made no sense may mean that the version does not either."""


@dataclass(frozen=True)
class Listing:
    """All objects of a collection, as they are when a watch begins or begins again."""

    items: Sequence[Json]


@dataclass(frozen=True)
class Change:
    """A change of one object."""

    type: str
    """ADDED, MODIFIED or DELETED. DELETED also where the object no longer matches the selector."""
    object: Json


@dataclass(frozen=True)
class WatchTiming:
    """The times of a watch, in seconds. A pause doubles with each failure of its kind in a row, up to its limit."""

    pause: float = 0.5
    pause_limit: float = 15.0
    refused_pause: float = 5.0
    """After 401, 403 and 404: whoever changes the rights of an account may change them back."""
    refused_limit: float = 60.0
    settled: float = 30.0
    """A stream that lasted so long has worked, even if nothing happened in it."""
    server_limit: int = 240
    """After this long the API server ends a watch, which is then begun again."""
    stall: float = 150.0
    """A watch without a change or a bookmark for this long is taken for dead; bookmarks come about once a minute."""


class Watch:
    """All objects of a collection and then every change, for ever; iterate over it once.

    A Listing comes first, and again whenever changes may have been missed; what is not in it is gone. Where items of
    a listing do not say which objects they are, the others come as changes, because none can be concluded to be gone.
    """

    def __init__(
        self,
        what: str,
        list_all: Callable[[], Awaitable[Json]],
        lines: Callable[[str], AsyncGenerator[bytes, None]],
        *,
        must_start: bool,
        failed: Callable[[KubeError], None],
        timing: WatchTiming,
        monotonic: Callable[[], float],
        draw: Callable[[], float],
    ) -> None:
        """`lines` are those of a watch from a version on, an empty one as soon as it has begun; both raise KubeError.

        With `must_start`, a refusal (401, 403, 404) before the first listing is raised; nothing else ever is.
        `failed` is called with every failure; `draw` gives random numbers from 0 to 1.
        """
        self._what = what
        self._list_all = list_all
        self._lines = lines
        self._must_start = must_start
        self._failed = failed
        self._timing = timing
        self._monotonic = monotonic
        self._draw = draw
        self._failures = 0
        self._refused = False
        self._strikes = 0
        self._open = False
        self.proved = -math.inf
        """When it last proved itself, on the monotonic clock: a listing was asked for that came, or an event came."""
        self.trouble: str | None = None
        """Why nothing comes at present, as a sentence; None while all is well."""

    @property
    def blind(self) -> str | None:
        """Why a change would not be seen now, as a sentence; None while a stream is open or about to be opened."""
        if self._open:
            return None
        return self.trouble if self.begun else f"{self._what} were not listed yet"

    @property
    def begun(self) -> bool:
        """Whether all objects were listed at least once."""
        return self.proved > -math.inf

    def __aiter__(self) -> AsyncIterator[Listing | Change]:
        return self._run()

    async def _run(self) -> AsyncIterator[Listing | Change]:
        version: str | None = None
        listed = False
        while True:
            streaming = math.inf
            try:
                if version is None:
                    version, seen = await self._list()
                    listed = True
                    for event in seen:
                        yield event
                streaming = self._monotonic()
                async with aclosing(self._lines(version)) as lines:
                    async for line in lines:
                        self._open = True
                        if not line.strip():
                            continue
                        type_, found = self._read(line)
                        version = found["metadata"]["resourceVersion"]
                        self._prove(self._monotonic())
                        self._failures = self._strikes = 0
                        if type_ != "BOOKMARK":
                            yield Change(type_, found)
                if self.proved < streaming and not self._settled(streaming):
                    raise AnswerError(f"the watch of {self._what} ended at once")
            except KubeError as error:
                self._open = False
                if error.refused and self._must_start and not listed:
                    raise
                if self._settled(streaming):
                    self._failures = 0
                if self._lists_after(error):
                    version = None
                self._report(error)
                await asyncio.sleep(self._pause(error))

    def _settled(self, since: float) -> bool:
        return self._monotonic() - since >= self._timing.settled

    async def _list(self) -> tuple[str, list[Listing | Change]]:
        sent = self._monotonic()
        body = await self._list_all()
        metadata, items = body.get("metadata"), body.get("items") or []
        version = metadata.get("resourceVersion") if isinstance(metadata, dict) else None
        if not isinstance(version, str) or not version or not isinstance(items, list):
            raise AnswerError(f"the listing of {self._what} has no resourceVersion or no items")
        self._prove(sent)
        known = [item for item in items if identified(item)]
        if len(known) == len(items):
            return version, [Listing(known)]
        self._report(AnswerError(f"{len(items) - len(known)} items of the listing of {self._what} cannot be read"))
        return version, [Change("MODIFIED", item) for item in known]

    def _read(self, line: bytes) -> tuple[str, Json]:
        event = read_object(line, f"a line of the watch of {self._what}")
        type_, found = event.get("type"), event.get("object")
        if not isinstance(found, dict):
            raise AnswerError(f"an event of the watch of {self._what} has no object")
        if type_ == "ERROR":
            code = found.get("code")
            # An error without a code is taken for the usual one, after which all is listed again.
            raise KubeError(
                code if isinstance(code, int) and code >= 400 else 410,
                f"the watch of {self._what} ended: {found.get('message') or found}",
            )
        if type_ == "BOOKMARK":
            metadata = found.get("metadata")
            readable = isinstance(metadata, dict) and isinstance(metadata.get("resourceVersion"), str)
        else:
            readable = type_ in ("ADDED", "MODIFIED", "DELETED") and identified(found)
        if not readable:
            raise AnswerError(f"an event of the watch of {self._what} cannot be read: its type is {type_!r}")
        return str(type_), found

    def _lists_after(self, error: KubeError) -> bool:
        """Whether changes may have been missed, so that the version is of no more use."""
        if isinstance(error, AnswerError) or error.code >= 500:
            self._strikes += 1
        if not error.transient or self._strikes >= RELIST_AFTER:
            self._strikes = 0
            return True
        return False

    def _prove(self, at: float) -> None:
        self.proved = max(self.proved, at)
        if self.trouble is not None:
            logger.info("The watch of %s goes on.", self._what)
            self.trouble = None

    def _report(self, error: KubeError) -> None:
        trouble = str(error) or "no answer"
        if trouble != self.trouble:
            logger.warning("The watch of %s meets trouble, and is tried again: %s", self._what, trouble)
        self.trouble = trouble
        self._failed(error)

    def _pause(self, error: KubeError) -> float:
        timing = self._timing
        if error.refused != self._refused:  # A server that has just started refuses rights for a moment.
            self._failures, self._refused = 0, error.refused
        first, most = (
            (timing.refused_pause, timing.refused_limit) if error.refused else (timing.pause, timing.pause_limit)
        )
        pause = min(first * 2.0 ** min(self._failures, 16), most)
        self._failures += 1
        return max(pause * (0.5 + self._draw() / 2), error.retry_after or 0.0)


async def split_lines(pieces: AsyncIterator[bytes], what: str) -> AsyncGenerator[bytes, None]:
    """The lines of a stream of bytes, the last one too if it does not end. Raises AnswerError for one too long."""
    rest = bytearray()
    async for piece in pieces:
        rest += piece
        if b"\n" in piece:
            *whole, rest = rest.split(b"\n")
            for line in whole:
                yield bytes(line)
        if len(rest) > LINE_LIMIT:
            raise AnswerError(f"a line of {what} is longer than {LINE_LIMIT} bytes")
    if rest:
        yield bytes(rest)
