"""How the API server is reached: credentials, the CAs that are trusted, a proxy; and never by a redirect."""

import logging
import os
import ssl
from collections.abc import Mapping
from pathlib import Path

import aiohttp
from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import load_incluster_config, load_kube_config
from kubernetes.aio.config.config_exception import ConfigException

from videojob.kube.proxies import proxy_for

logger = logging.getLogger(__name__)


class CredentialsError(ConfigException):
    """The API server's address or the credentials for it cannot be used; the text says why."""


class RedirectError(aiohttp.ClientConnectionError):
    """The answer is a redirect: the API server gives none, and credentials must not follow it."""


async def configuration(kubeconfig: Path | None, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Credentials from a kubeconfig file or, without one, from the pod that this runs in.

    A proxy that the kubeconfig names is used as it says; else the environment decides. Raises CredentialsError.
    """
    settings = Configuration()
    try:
        if kubeconfig is not None:
            await load_kube_config(config_file=str(kubeconfig), client_configuration=settings)
        else:
            load_incluster_config(client_configuration=settings)
        settings.proxy = settings.proxy or proxy_for(settings.host, environment)
    except Exception as error:  # The library raises whatever it stumbles over in a malformed file.
        raise CredentialsError(str(error) or type(error).__name__) from error
    # With trust_env, the client's default, aiohttp starts two threads per request to look for proxies and netrc.
    settings.client_session_kwargs = {"trust_env": False, "middlewares": (refuse_redirects,)}
    return settings


async def refuse_redirects(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """A middleware of aiohttp. Raises RedirectError."""
    response = await handler(request)
    if 300 <= response.status < 400:
        response.close()
        raise RedirectError(f"{request.url} is redirected ({response.status}): is a gateway in between?")
    return response


def trust_again(context: ssl.SSLContext, settings: Configuration) -> None:
    """A certificate was not trusted: read the file of the CA again, which the kubelet replaces when a CA is rotated.

    What was trusted before stays trusted until the process ends.
    """
    if settings.ssl_ca_cert is not None:
        try:
            context.load_verify_locations(settings.ssl_ca_cert)
        except OSError as error:  # An SSLError is one.
            logger.warning("The CA of the API server cannot be read again: %s", error)
