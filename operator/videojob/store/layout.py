"""Where the objects of a job are: keys relative to its folder, and what a key says.

There is a pair of logs for each closing of the job: it is named by the attempt that was closed before it began, 0 for
the first.
"""

import posixpath
import re
from collections.abc import Iterable
from typing import Final

ATTEMPTS: Final = "attempts"
CLOSED: Final = "closed"
UNITS: Final = "latents"
"""The log of what is denoised."""
PIECES: Final = "segments"
"""The log of what is encoded."""
PARTIAL: Final = "partial"
"""What units have come to that were paused."""
IMAGES: Final = "images"
"""The log of what the shots begin with, and end with."""
LIVE: Final = "output/playlist.m3u8"
"""The playlist that grows with the video: of all objects, the only one that is written over with something else."""

_AFTER: Final = r"(?:after/(?P<after>[1-9]\d*)/)?"
# Whatever the log is called: an earlier or a later version of this software may keep others.
_ENTRY = re.compile(_AFTER + r"[a-z]+/(?P<index>\d+)\.json")
_OUTPUT = re.compile(_AFTER + r"output\.json")
_CLOSED = re.compile(r"closed/(\d+)")
_MADE = re.compile(r"(?:attempts/|output/|partial/\d+/)(\d+)(?:/.*|[.-].*)")
_NAMED = re.compile(r'^(?:#EXT-X-MAP:URI="([^"]+)".*|([^#\s].*))$', re.MULTILINE)
_PARTIAL = re.compile(r"partial/(?P<unit>\d+)/(?P<attempt>\d+)-(?P<step>\d+)-[0-9a-f]{16}")


def _in_logs(after: int, key: str) -> str:
    return f"after/{after}/{key}" if after else key


def log(after: int, name: str) -> str:
    """The folder of the records of a log, UNITS or PIECES."""
    return _in_logs(after, name)


def entry_key(after: int, name: str, index: int) -> str:
    """Of a record in a log."""
    return _in_logs(after, f"{name}/{index}.json")


def output_key(after: int) -> str:
    """Of the video's record."""
    return _in_logs(after, "output.json")


def content_key(name: str, sha256: str, suffix: str) -> str:
    """The key of an object that begins with `name`, and says what is in it."""
    return f"{name}-{sha256[:16]}{suffix}"


def object_name(attempt: int, index: int) -> str:
    """The beginning of the key of a checkpoint or a segment."""
    return f"{ATTEMPTS}/{attempt}/{index}"


def first_name(attempt: int) -> str:
    """The beginning of the key of the media segment that holds the frame of the first piece, and those after it."""
    return f"{object_name(attempt, 1)}-first"


def output_name(attempt: int, what: str = "") -> str:
    """The beginning of the key of a video, or of what goes with it."""
    return f"output/{attempt}-{what}" if what else f"output/{attempt}"


def in_playlist(key: str) -> str:
    """How a playlist names an object: all playlists are in one folder."""
    return posixpath.relpath(key, posixpath.dirname(LIVE))


def named(playlist: str) -> set[str]:
    """The keys that a playlist names."""
    uris = (found[1] or found[2] for found in _NAMED.finditer(playlist))
    return {posixpath.normpath(posixpath.join(posixpath.dirname(LIVE), uri.strip())) for uri in uris}


def partial_folder(unit: int) -> str:
    """Of the partial checkpoints of a unit."""
    return f"{PARTIAL}/{unit}"


def partial_name(unit: int, attempt: int, step: int) -> str:
    """The beginning of the key of the partial checkpoint of a unit that an attempt has paused after that step."""
    return f"{partial_folder(unit)}/{attempt}-{step}"


def partials(keys: Iterable[str]) -> list[str]:
    """The keys among these of partial checkpoints, the highest step first."""
    found = [match for match in map(_PARTIAL.fullmatch, keys) if match]
    return [match[0] for match in sorted(found, key=lambda match: int(match["step"]), reverse=True)]


def is_part(key: str) -> bool:
    """Whether a finished video was made of this object, which no record in a log is."""
    return key.startswith((f"{ATTEMPTS}/", f"{PARTIAL}/"))


def entry(key: str) -> int | None:
    """The index of the record in a log that this is, if it is one."""
    found = _ENTRY.fullmatch(key)
    return int(found["index"]) if found else None


def outputs(keys: Iterable[str]) -> list[str]:
    """The keys among these of videos' records, from the newest closing to the first."""
    found = [match for match in map(_OUTPUT.fullmatch, keys) if match]
    return [match[0] for match in sorted(found, key=lambda match: int(match["after"] or 0), reverse=True)]


def after(key: str) -> int | None:
    """Which closing a record follows, be it in a log or of a video; None if this is no record."""
    found = _ENTRY.fullmatch(key) or _OUTPUT.fullmatch(key)
    return int(found["after"] or 0) if found else None


def is_closed(key: str) -> bool:
    """Whether this object closes attempts."""
    return _CLOSED.fullmatch(key) is not None


def closed(keys: Iterable[str]) -> int:
    """The attempt up to which these keys close the job."""
    return max((int(match[1]) for match in map(_CLOSED.fullmatch, keys) if match), default=0)


def attempt(key: str) -> int | None:
    """The attempt that a key of a checkpoint, partial or not, of a segment or of a video names."""
    found = _MADE.fullmatch(key)
    return int(found[1]) if found else None
