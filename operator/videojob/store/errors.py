"""What a store's failures mean: which sentence a person needs, and whether trying again can help."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError

DETAIL_LIMIT = 300
"""Characters of a store's own words that a sentence quotes."""


class StoreError(Exception):
    """The store did not do what it was asked; the message is a sentence for people."""

    unavailable = True
    """Whether the store as a whole cannot be used, rather than one object in it."""

    def __init__(self, sentence: str, *, retryable: bool) -> None:
        super().__init__(sentence)
        self.retryable = retryable
        """Whether the same request may succeed later without anybody changing anything."""


class CorruptObject(StoreError):  # noqa: N818  # it names what was found, as `StoreError` names who failed
    """An object is missing, or does not match its record."""

    unavailable = False

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, retryable=False)


class ObjectTooLarge(StoreError):  # noqa: N818  # as above
    """An object that somebody has put there is larger than it may be."""

    unavailable = False

    def __init__(self, size: int) -> None:
        super().__init__(f"It has {size} bytes.", retryable=False)
        self.size = size
        """Bytes."""


class JobClosed(StoreError):  # noqa: N818  # as above
    """The job was taken from the attempt that wants to write; it has lost the job, and stops."""

    unavailable = False

    def __init__(self, where: str, attempt: int) -> None:
        super().__init__(f"{where} is closed for attempts up to {attempt}: the job was taken back.", retryable=False)


@dataclass(frozen=True)
class _Meaning:
    sentence: str
    retryable: bool


_FULL = _Meaning("it is full. Free some space or raise its quota; work goes on by itself then", retryable=True)
_FORBIDDEN = _Meaning("access is denied. Allow this account to read, write, list and delete there", retryable=False)
_READ_ONLY = _Meaning("it is read-only. Mount it writable", retryable=False)
_UNKNOWN_CREDENTIALS = _Meaning(
    "it does not accept the credentials. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY in the pool's Secret",
    retryable=False,
)
_EXPIRED_CREDENTIALS = _Meaning("the credentials have expired. Renew the pool's Secret", retryable=False)
_CLOCK = _Meaning(
    "the clocks of this machine and of the store differ too much. Set this machine's clock", retryable=False
)
_NO_BUCKET = _Meaning("the bucket does not exist. Create it, or correct the pool's store URL", retryable=False)
_SILENT = _Meaning("it did not answer in time", retryable=True)
_UNREACHABLE = _Meaning("it cannot be reached. Check the pool's store endpoint and the network", retryable=True)
_OVERLOADED = _Meaning("it has a problem of its own for now", retryable=True)
_UNTRUSTED = _Meaning(
    "its certificate is not trusted. Put the certificate of the CA that signed it under ca.crt of a ConfigMap in the "
    "operator's namespace, and name that ConfigMap in the pool's store.caConfigMapName",
    retryable=False,
)
_WRONG_NAME = _Meaning(
    "its certificate is for another host name. Correct the pool's store.endpoint, or the certificate", retryable=False
)
_EXPIRED_CERTIFICATE = _Meaning("its certificate is not valid at this time. Renew it", retryable=False)
_PANIC = _Meaning(
    "the client of the store has ended with an internal error, as it does for values that no store can have. Check "
    "url, endpoint and region of the pool's store, and its Secret, for spaces, line feeds and letters outside ASCII",
    retryable=False,
)

# Error numbers of Linux, as the store's local folder reports them ("os error 28").
_BY_ERRNO: Final = {
    1: _FORBIDDEN,  # EPERM
    5: _OVERLOADED,  # EIO
    13: _FORBIDDEN,  # EACCES
    24: _OVERLOADED,  # EMFILE
    27: _FULL,  # EFBIG
    28: _FULL,  # ENOSPC
    30: _READ_ONLY,  # EROFS
    110: _SILENT,  # ETIMEDOUT
    116: _OVERLOADED,  # ESTALE
    122: _FULL,  # EDQUOT
}
# https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html, and what compatible servers add to it.
_BY_CODE: Final = {
    "AccessDenied": _FORBIDDEN,
    "AllAccessDisabled": _FORBIDDEN,
    "ExpiredToken": _EXPIRED_CREDENTIALS,
    "InvalidAccessKeyId": _UNKNOWN_CREDENTIALS,
    "InvalidToken": _UNKNOWN_CREDENTIALS,
    "NoSuchBucket": _NO_BUCKET,
    "QuotaExceeded": _FULL,
    "RequestTimeTooSkewed": _CLOCK,
    "SignatureDoesNotMatch": _UNKNOWN_CREDENTIALS,
    "XMinioStorageFull": _FULL,
}
_BY_STATUS: Final = {
    401: _UNKNOWN_CREDENTIALS,
    403: _FORBIDDEN,
    408: _SILENT,
    409: _OVERLOADED,
    429: _OVERLOADED,
    507: _FULL,
}
# Messages of rustls about a server's certificate.
_BY_CERTIFICATE: Final = {
    "NotValidForName": _WRONG_NAME,
    "Expired": _EXPIRED_CERTIFICATE,
    "NotValidYet": _EXPIRED_CERTIFICATE,
}
# Of pyo3 and of its asyncio bridge. The first is no Exception, and neither can be imported.
_PANICS: Final = ("PanicException", "RustPanic")


@contextmanager
def border(doing: str) -> Iterator[None]:
    """Around every call of obstore: whatever it raises becomes a StoreError, panics of its Rust code included.

    Not chained: an S3 server's answer repeats the key id and the signature of the request.
    """
    try:
        yield
    except StoreError:
        raise
    except Exception as error:
        raise explain(error, doing) from None
    except BaseException as error:
        if type(error).__name__ not in _PANICS:
            raise
        raise explain(error, doing) from None


def explain(error: BaseException, doing: str) -> StoreError:
    """The StoreError for what obstore raised while `doing` (such as "write a/b.json")."""
    text, _, debug = str(error).partition("\n\nDebug source")
    meaning = _meaning(error, text, debug)
    if meaning is None:
        detail = _detail(text)
        return StoreError(f"The store failed to {doing}: {detail}.", retryable=True)
    return StoreError(f"The store failed to {doing}: {meaning.sentence}.", retryable=meaning.retryable)


def _meaning(error: BaseException, text: str, debug: str) -> _Meaning | None:
    if type(error).__name__ in _PANICS:
        return _PANIC
    if isinstance(error, TimeoutError):
        return _SILENT
    if (code := error_code(text)) and code in _BY_CODE:
        return _BY_CODE[code]
    if (number := re.search(r"\(os error (\d+)\)", text)) and int(number[1]) in _BY_ERRNO:
        return _BY_ERRNO[int(number[1])]
    if status := re.search(r"status code: (\d{3})", text):
        return _BY_STATUS.get(int(status[1]), _OVERLOADED if int(status[1]) >= 500 else None)
    if isinstance(error, PermissionDeniedError):
        return _FORBIDDEN
    if isinstance(error, UnauthenticatedError):
        return _UNKNOWN_CREDENTIALS
    if certificate := re.search(r"InvalidCertificate\(\s*(\w+)", debug):
        return next((it for name, it in _BY_CERTIFICATE.items() if certificate[1].startswith(name)), _UNTRUSTED)
    if isinstance(error, BaseError) and "error sending request" in text:
        return _UNREACHABLE
    return None


def error_code(text: str) -> str | None:
    """The code in an S3 server's answer, such as NoSuchBucket."""
    found = re.search(r"<Code>(\w+)</Code>", text)
    return found[1] if found else None


def _detail(text: str) -> str:
    """The store's own words, short, and without the parts of an S3 answer that repeat the request's signature."""
    words = re.search(r"<Message>(.*?)</Message>", text, re.DOTALL)
    plain = words[1] if words else re.sub(r"<\?xml.*", "", text, flags=re.DOTALL)
    return " ".join(plain.split())[:DETAIL_LIMIT].rstrip(". :")
