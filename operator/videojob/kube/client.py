"""A small asynchronous client for JSON objects, over the transport of the official client.

The official client brings credentials, TLS, and HTTP; its typed models are left out, because importing them costs more
memory than the whole operator may use (measured: 106 MB), and our own types are in `videojob.api`.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import getproxies

import aiohttp
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.client.exceptions import ApiException
from kubernetes.aio.config import load_incluster_config, load_kube_config

from videojob.api import GROUP, VERSION

Json = dict[str, Any]
Observer = Callable[[str, str, int, float], None]
"""Called after each write with verb, plural of the kind, HTTP code (0 where no answer came), and seconds."""

REQUEST_SECONDS = 30.0
_FENCE_BROKEN = "the server rejected our request"
"""How the API server words a JSON patch whose `test` does not hold; a value against the schema reads differently."""
WATCH_SECONDS = 240
"""After this long the API server ends a watch, which is then begun again."""
STALL_SECONDS = 150
"""A watch without a change or a bookmark for this long is taken for dead."""


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


class KubeError(Exception):
    """The API server refused a request, or did not answer.

    `code` is the HTTP status, 0 where there was no answer; the text is the API server's own sentence.
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
    def conflict(self) -> bool:
        """The object is not the one that the write was meant for: it changed, or a fence did not hold."""
        return self.code == 409 or (self.code == 422 and _FENCE_BROKEN in str(self))

    @property
    def transient(self) -> bool:
        """The same request may succeed later."""
        return self.code in (0, 408, 429) or self.code >= 500


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


async def configuration(kubeconfig: Path | None) -> Configuration:
    """Credentials from a kubeconfig file or, without one, from the pod that this runs in."""
    settings = Configuration()
    if kubeconfig is not None:
        await load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
    else:
        load_incluster_config(client_configuration=settings)
    # With trust_env, the client's default, aiohttp starts two threads per request to look for proxies and netrc.
    settings.client_session_kwargs = {"trust_env": bool(getproxies())}
    return settings


class KubeClient:
    """Reads and writes JSON objects.

    Every request has a time limit; retries are the caller's, who knows what is safe.
    """

    def __init__(self, settings: Configuration, observe: Observer = lambda verb, kind, code, seconds: None) -> None:
        self._api = ApiClient(settings)
        self._observe = observe

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
        path = kind.path(namespace, name)
        query = {"fieldManager": manager, "force": "true"}
        return await self._write("PATCH", kind, path, body, "application/apply-patch+yaml", query)

    async def delete(
        self, kind: ResourceKind, name: str, namespace: str | None = None, preconditions: Json | None = None
    ) -> None:
        """Delete an object, if it still has that uid or resourceVersion. Raises KubeError."""
        body = {"preconditions": preconditions} if preconditions else None
        await self._write("DELETE", kind, kind.path(namespace, name), body)

    async def watch(
        self, kind: ResourceKind, namespace: str | None = None, **selectors: str
    ) -> AsyncIterator[Listing | Change]:
        """The objects of a collection and then every change, for ever.

        A Listing comes first, and again whenever changes may have been missed; what is not in it is gone. Transport
        errors are survived with a bounded pause; KubeError is raised only for refusals that will not pass (401, 403,
        404).
        """
        pause = 0.5
        version: str | None = None
        while True:
            try:
                if version is None:
                    listing = await self.list(kind, namespace, **selectors)
                    version = listing["metadata"]["resourceVersion"]
                    yield Listing(listing.get("items", []))
                    pause = 0.5
                async for type_, changed in self._stream(kind.path(namespace), version, selectors):
                    pause = 0.5
                    if type_ == "ERROR":
                        version = None
                        break
                    version = changed["metadata"]["resourceVersion"]
                    if type_ != "BOOKMARK":
                        yield Change(type_, changed)
            except KubeError as error:
                if error.code == 410:
                    version = None
                elif not error.transient:
                    raise
                else:
                    await asyncio.sleep(error.retry_after or pause)
                    pause = min(pause * 2, 15.0)

    async def _stream(self, path: str, version: str, selectors: Mapping[str, str]) -> AsyncIterator[tuple[str, Json]]:
        query = {
            **selectors,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(WATCH_SECONDS),
        }
        # A watch that stalls without an error would otherwise go unnoticed; bookmarks arrive about once a minute.
        limits = aiohttp.ClientTimeout(total=None, sock_connect=REQUEST_SECONDS, sock_read=STALL_SECONDS)
        response = await self._request("GET", path, query=query, timeout=limits)
        try:
            async for line in response.content:
                event = json.loads(line)
                yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as error:
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
            return json.loads(await response.read())  # type: ignore[no-any-return]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise KubeError(0, f"{verb} {path} broke: {error}") from error

    async def _request(
        self,
        verb: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout | None = None,
    ) -> aiohttp.ClientResponse:
        method, url, headers, data, _ = await self._api.param_serialize(
            verb,
            path,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json", "Content-Type": content_type},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            answer = await self._api.rest_client.request(method, url, headers, data, _request_timeout=timeout)
            response: aiohttp.ClientResponse = answer.response
            if response.status < 400:
                return response
            text = (await response.read()).decode(errors="replace")
        except ApiException as error:
            raise KubeError(error.status or 0, str(error.reason)) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise KubeError(0, f"the API server did not answer {verb} {path}: {error}") from error
        wait = response.headers.get("Retry-After", "")
        raise KubeError(response.status, _sentence(text), float(wait) if wait.isdigit() else None)


def _sentence(text: str) -> str:
    """The message of a `metav1.Status`, or the text itself where something else answered."""
    try:
        return str(json.loads(text)["message"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
