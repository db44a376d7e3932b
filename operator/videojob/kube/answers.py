"""What an API server answers, read with care: a gateway may have answered in its place, or half an answer came."""

import json
from typing import Any

Json = dict[str, Any]

EXCERPT = 200
"""Characters of an answer that a sentence quotes."""
RETRY_AFTER_LIMIT = 60.0
"""Seconds: no server may ask for a longer pause."""
_FENCE_BROKEN = "the server rejected our request"
"""How the API server words a JSON patch whose `test` does not hold; a value against the schema reads differently."""


class KubeError(Exception):
    """The API server refused a request, or did not answer.

    `code` is the HTTP status, 0 where there was no usable answer; the text is the API server's own sentence.
    `retry_after` is the pause in seconds that the server asked for, if it did.
    """

    def __init__(self, code: int, message: str, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.retry_after = retry_after

    @property
    def not_found(self) -> bool:
        """The object does not exist."""
        return self.code == 404

    @property
    def refused(self) -> bool:
        """The account or the resource is unknown, or a right is missing: it may come back, but not soon."""
        return self.code in (401, 403, 404)

    @property
    def conflict(self) -> bool:
        """The object is not the one that the write was meant for: it changed, or a fence did not hold."""
        return self.code == 409 or (self.code == 422 and _FENCE_BROKEN in str(self))

    @property
    def transient(self) -> bool:
        """The same request may succeed later."""
        return self.code in (0, 408, 429) or self.code >= 500


class AnswerError(KubeError):
    """An answer came that no API server gives: no JSON, half an object, the page of a gateway."""

    def __init__(self, message: str) -> None:
        super().__init__(0, message)


def read_object(text: bytes, what: str) -> Json:
    """The JSON object of an answer; `what` names it in a sentence. Raises AnswerError."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise AnswerError(f"{what} is no JSON ({error}): {_excerpt(text)}") from error
    if not isinstance(found, dict):
        raise AnswerError(f"{what} is no JSON object: {_excerpt(text)}")
    return found


def sentence(text: bytes) -> str:
    """The message of a `metav1.Status`, or the text itself where something else answered."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return text.decode(errors="replace")[:500]


def retry_after(header: str) -> float | None:
    """Seconds of a Retry-After header, bounded; None where there is none, or a date."""
    return min(float(header), RETRY_AFTER_LIMIT) if header.isascii() and header.isdigit() else None


def identified(item: object) -> bool:
    """Whether an object says which one it is, and in which version: without that nobody can act on it."""
    metadata = item.get("metadata") if isinstance(item, dict) else None
    return isinstance(metadata, dict) and all(
        isinstance(metadata.get(key), str) and metadata[key] for key in ("name", "uid", "resourceVersion")
    )


def _excerpt(text: bytes) -> str:
    return repr(text[:EXCERPT].decode(errors="replace"))
