"""From a pool's store URL to a client, and from an object to the URL that people fetch it by."""

from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from obstore.store import LocalStore, S3Store

from videojob.store.errors import StoreError, border
from videojob.store.objects import Store, folder_of

if TYPE_CHECKING:
    from obstore.store import ClientConfig, RetryConfig, S3Config, S3Credential

_CLIENT: "ClientConfig" = {"connect_timeout": timedelta(seconds=5), "timeout": timedelta(seconds=60)}
# Of single requests within an operation: a part of a large upload, a page of a listing.
_RETRY: "RetryConfig" = {"max_retries": 2, "retry_timeout": timedelta(seconds=30)}


def open_store(
    url: str,
    *,
    endpoint: str | None = None,
    region: str | None = None,
    credentials: Mapping[str, str] | None = None,
    ca_certificate: str | None = None,
) -> Store:
    """Open `file:///folder` (made if it is missing) or `s3://bucket/prefix`. Nothing is sent yet; see `check_store`.

    Args:
        url: Where all jobs of a pool have their files.
        endpoint: `http(s)://host:port` of an S3 server that is not AWS.
        region: Region of the bucket.
        credentials: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, where there is one, AWS_SESSION_TOKEN; other keys are
            not looked at. None: what the environment or the cloud's metadata service gives.
        ca_certificate: PEM of one or more CAs that are trusted beside those of the system.

    Raises:
        StoreError: The URL or the credentials are not complete, or the folder cannot be made.
    """
    parts = urlsplit(url)
    if parts.query or parts.fragment:
        raise StoreError(f"The store URL {url} must not have a query or a fragment.", retryable=False)
    if parts.scheme == "file":
        return _folder(url, parts.netloc, unquote(parts.path))
    if parts.scheme == "s3":
        return _bucket(url, parts.netloc, parts.path, endpoint, region, credentials, ca_certificate)
    raise StoreError(f"The store URL {url} must be file:///folder or s3://bucket/prefix.", retryable=False)


def uri_of(store: Store, key: str) -> str:
    """The URL of an object, `file:///...` or `s3://bucket/...`."""
    if isinstance(store, LocalStore):
        return (folder_of(store) / key).as_uri()
    return "/".join(part for part in ("s3:/", store.config["bucket"], store.prefix, key) if part)


def _folder(url: str, host: str, path: str) -> LocalStore:
    if host not in ("", "localhost") or not Path(path).is_absolute():
        raise StoreError(f"The store URL {url} must name a folder of this machine, as file:///folder.", retryable=False)
    with border(f"make the folder {path}"):
        return LocalStore(path, mkdir=True)


def _bucket(
    url: str,
    bucket: str,
    prefix: str,
    endpoint: str | None,
    region: str | None,
    credentials: Mapping[str, str] | None,
    ca_certificate: str | None,
) -> S3Store:
    if not bucket:
        raise StoreError(f"The store URL {url} must name a bucket, as s3://bucket/prefix.", retryable=False)
    client: ClientConfig = {**_CLIENT, "allow_http": bool(endpoint and endpoint.startswith("http://"))}
    settings: S3Config = {}
    if endpoint:
        settings["endpoint"] = endpoint
    if region:
        settings["region"] = region
    if ca_certificate is not None:
        client["root_certificate"] = ca_certificate
    with border(f"open {url}"):
        return S3Store(
            bucket,
            prefix=prefix.strip("/") or None,
            config=settings,
            client_options=client,
            retry_config=_RETRY,
            credential_provider=_provider(credentials) if credentials is not None else None,
        )


def _provider(credentials: Mapping[str, str]) -> Callable[[], "S3Credential"]:
    """Hands out these credentials, which so are in no `repr` and do not mix with those of the environment."""
    missing = [name for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if not credentials.get(name)]
    if missing:
        raise StoreError(
            f"The store's credentials lack {' and '.join(missing)}; add it to the pool's Secret.", retryable=False
        )
    fixed: S3Credential = {
        "access_key_id": credentials["AWS_ACCESS_KEY_ID"],
        "secret_access_key": credentials["AWS_SECRET_ACCESS_KEY"],
        "token": credentials.get("AWS_SESSION_TOKEN") or None,
        "expires_at": None,
    }
    return lambda: fixed
