"""A small asynchronous client for JSON objects, over the transport of the official client.

The official client brings credentials, TLS, and HTTP; its typed models are left out, because importing them costs more
memory than the whole operator may use (measured: 106 MB), and our own types are in `videojob.api`.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config.config_exception import ConfigException

from videojob.api import GROUP, VERSION
from videojob.kube.answers import AnswerError, Json, KubeError, read_object, retry_after, sentence
from videojob.kube.connection import CredentialsError, trust_again
from videojob.kube.watch import Change, Listing, Watch, WatchTiming, split_lines

__all__ = [
    "CONFIG_MAPS",
    "DEPLOYMENTS",
    "EVENTS",
    "GPU_POOLS",
    "LEASES",
    "NOBODY",
    "PODS",
    "SECRETS",
    "VIDEO_JOBS",
    "VIDEO_MODELS",
    "VIDEO_QUEUES",
    "AnswerError",
    "Change",
    "Json",
    "KubeClient",
    "KubeError",
    "Listing",
    "Observer",
    "Reachability",
    "ResourceKind",
    "Watch",
    "WatchTiming",
]

Observer = Callable[[str, str, int, float], None]
"""Called after each write with verb, plural of the kind, HTTP code (0 where no answer came), and seconds."""

REQUEST_SECONDS = 30.0
ERROR_BYTES = 2**16
"""Bytes that are read of an answer that is an error."""

_TRANSPORT = (aiohttp.ClientError, OSError, TimeoutError, ValueError, RuntimeError, EOFError, ConfigException)
"""What the libraries raise where a request has no answer: token files, TLS, sockets and HTTP are theirs."""


class Reachability(Protocol):
    """Called with how every request ended, reads and the beginnings of watches included."""

    def answered(self) -> None:
        """The API server answered, be it with a refusal."""

    def failed(self) -> None:
        """It did not answer, answered with 5xx, or something else answered in its place."""


class _Nobody:
    def answered(self) -> None:
        pass

    def failed(self) -> None:
        pass


NOBODY: Reachability = _Nobody()
"""For clients that do not need it."""


@dataclass(frozen=True)
class ResourceKind:
    """A kind of objects, by its place in the API."""

    plural: str
    prefix: str
    namespaced: bool = True

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        """The URL path of an object, of a namespace's collection, or of the whole collection."""
        parts = [self.prefix]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)


VIDEO_JOBS = ResourceKind("videojobs", f"/apis/{GROUP}/{VERSION}")
VIDEO_QUEUES = ResourceKind("videoqueues", f"/apis/{GROUP}/{VERSION}")
VIDEO_MODELS = ResourceKind("videomodels", f"/apis/{GROUP}/{VERSION}", namespaced=False)
GPU_POOLS = ResourceKind("gpupools", f"/apis/{GROUP}/{VERSION}", namespaced=False)
LEASES = ResourceKind("leases", "/apis/coordination.k8s.io/v1")
EVENTS = ResourceKind("events", "/api/v1")
SECRETS = ResourceKind("secrets", "/api/v1")
CONFIG_MAPS = ResourceKind("configmaps", "/api/v1")
PODS = ResourceKind("pods", "/api/v1")
DEPLOYMENTS = ResourceKind("deployments", "/apis/apps/v1")


class KubeClient:
    """Reads and writes JSON objects.

    Every request has a time limit; retries are the caller's, who knows what is safe.
    """

    def __init__(
        self,
        settings: Configuration,
        observe: Observer = lambda verb, kind, code, seconds: None,
        *,
        contact: Reachability = NOBODY,
        timing: WatchTiming = WatchTiming(),  # noqa: B008 - it never changes
        monotonic: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        """`monotonic` is the clock of `Watch.proved`. Raises CredentialsError."""
        self._settings = settings
        try:
            self._api = ApiClient(settings)
        except (OSError, ValueError) as error:
            raise CredentialsError(f"The certificates cannot be used: {error}") from error
        self._observe = observe
        self._contact = contact
        self._timing = timing
        self._monotonic = monotonic
        self._draw = draw

    async def close(self) -> None:
        """Close the connections."""
        await self._api.close()

    async def get(self, kind: ResourceKind, name: str, namespace: str | None = None) -> Json:
        """One object. Raises KubeError."""
        return await self._json("GET", kind.path(namespace, name))

    async def list(self, kind: ResourceKind, namespace: str | None = None, **selectors: str) -> Json:
        """A collection; selectors are labelSelector and fieldSelector. Raises KubeError."""
        return await self._json("GET", kind.path(namespace), query=selectors)

    async def create(self, kind: ResourceKind, body: Json, namespace: str | None = None) -> Json:
        """Create an object. Raises KubeError, with code 409 where it exists."""
        return await self._write("POST", kind, kind.path(namespace), body)

    async def replace(self, kind: ResourceKind, name: str, body: Json, namespace: str | None = None) -> Json:
        """Replace an object, if its resourceVersion is still that of `body`. Raises KubeError."""
        return await self._write("PUT", kind, kind.path(namespace, name), body)

    async def json_patch(
        self,
        kind: ResourceKind,
        name: str,
        operations: Sequence[Json],
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """Apply a JSON patch; a `test` that does not hold is a conflict. Raises KubeError."""
        path = kind.path(namespace, name, subresource)
        return await self._write("PATCH", kind, path, operations, "application/json-patch+json")

    async def merge_patch(
        self,
        kind: ResourceKind,
        name: str,
        body: Json,
        namespace: str | None = None,
        subresource: str | None = None,
    ) -> Json:
        """Apply a merge patch. Raises KubeError."""
        path = kind.path(namespace, name, subresource)
        return await self._write("PATCH", kind, path, body, "application/merge-patch+json")

    async def apply(self, kind: ResourceKind, name: str, body: Json, namespace: str, manager: str) -> Json:
        """Server-side apply: `manager` owns the fields of `body`, and what others set beside them stays.

        Raises KubeError.
        """
        query = {"fieldManager": manager, "force": "true"}
        return await self._write("PATCH", kind, kind.path(namespace, name), body, "application/apply-patch+yaml", query)

    async def delete(
        self, kind: ResourceKind, name: str, namespace: str | None = None, preconditions: Json | None = None
    ) -> None:
        """Delete an object, if it still has that uid or resourceVersion. Raises KubeError."""
        body = {"preconditions": preconditions} if preconditions else None
        await self._write("DELETE", kind, kind.path(namespace, name), body)

    def watch(
        self,
        kind: ResourceKind,
        namespace: str | None = None,
        *,
        must_start: bool = False,
        failed: Callable[[KubeError], None] = lambda error: None,
        list_all: Callable[[], Awaitable[Json]] | None = None,
        **selectors: str,
    ) -> Watch:
        """All objects of a collection and then every change, for ever; see Watch.

        It survives whatever comes. With `must_start` it raises KubeError where the first listing is refused.
        `list_all` is for collections that are too large for one listing.
        """
        path = kind.path(namespace)
        return Watch(
            path,
            list_all or partial(self.list, kind, namespace, **selectors),
            lambda version: self._stream(path, version, selectors),
            must_start=must_start,
            failed=failed,
            timing=self._timing,
            monotonic=self._monotonic,
            draw=self._draw,
        )

    async def _stream(self, path: str, version: str, selectors: Mapping[str, str]) -> AsyncGenerator[bytes, None]:
        query = {
            **selectors,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(self._timing.server_limit),
        }
        # A watch that stalls without an error would otherwise go unnoticed.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=self._timing.stall)
        response = await self._request("GET", path, query=query, timeout=limits)
        self._contact.answered()
        try:
            yield b""  # The watch has begun.
            async with aclosing(split_lines(response.content.iter_any(), f"the watch of {path}")) as lines:
                async for line in lines:
                    yield line
        except _TRANSPORT as error:
            raise KubeError(0, f"the watch of {path} broke: {error}") from error
        finally:
            response.close()

    async def _write(
        self,
        verb: str,
        kind: ResourceKind,
        path: str,
        body: object,
        content_type: str = "application/json",
        query: Mapping[str, str] | None = None,
    ) -> Json:
        began = time.monotonic()
        code = 0
        try:
            answer = await self._json(verb, path, query, body, content_type)
            code = 200
        except KubeError as error:
            code = error.code
            raise
        finally:
            # One that was cancelled may have taken place all the same: it still counts, as not answered.
            self._observe(verb.lower(), kind.plural, code, time.monotonic() - began)
        return answer

    async def _json(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> Json:
        limits = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        response = await self._request(verb, path, query, body, content_type, limits)
        try:
            answer = read_object(await response.read(), f"the answer to {verb} {path}")
        except BaseException as error:
            self._contact.failed()
            if isinstance(error, _TRANSPORT):
                raise KubeError(0, f"the answer to {verb} {path} broke: {error}") from error
            raise
        finally:
            response.close()
        self._contact.answered()
        return answer

    async def _request(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        """A response whose status is below 300; its body is still to come. Raises KubeError."""
        try:
            response = await self._send(verb, path, query, body, content_type, timeout)
        except BaseException as error:  # One that was cancelled had no answer either.
            self._contact.failed()
            if isinstance(error, aiohttp.ClientConnectorCertificateError):
                trust_again(self._api.rest_client.ssl_context, self._settings)
            if isinstance(error, ApiException):
                raise KubeError(error.status or 0, str(error.reason)) from error
            if isinstance(error, _TRANSPORT):
                raise KubeError(0, f"the API server did not answer {verb} {path}: {error}") from error
            raise
        if response.status < 300:
            return response
        if response.status >= 500:
            self._contact.failed()
        else:
            self._contact.answered()
        text = await _beginning(response)
        said = sentence(text) or f"{verb} {path} was answered with status {response.status}"
        raise KubeError(response.status, said, retry_after(response.headers.get("Retry-After", "")))

    async def _send(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None,
        body: object,
        content_type: str,
        timeout: aiohttp.ClientTimeout | None,
    ) -> aiohttp.ClientResponse:
        method, url, headers, data, _ = await self._api.param_serialize(
            verb,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        answer = await self._api.rest_client.request(method, url, headers, data, _request_timeout=timeout)
        response: aiohttp.ClientResponse = answer.response
        return response


async def _beginning(response: aiohttp.ClientResponse) -> bytes:
    """What an error says; nothing where it breaks off, because its status says enough."""
    text = b""
    try:
        async with asyncio.timeout(REQUEST_SECONDS):
            while len(text) < ERROR_BYTES and (piece := await response.content.read(ERROR_BYTES)):
                text += piece
    except (aiohttp.ClientError, OSError, TimeoutError):
        pass
    finally:
        response.close()
    return text
