"""How a store is opened: from a pool's spec, its Secret and its CA's ConfigMap to the options of `open_store`.

White space at the ends of a value is taken off: `echo KEY | base64` leaves a line feed, and the client of the store
ends with a panic where a value of a header holds one.
"""

import base64
import re
import ssl
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypedDict

from videojob.api.gpupool import CA_KEY
from videojob.api.gpupool import Store as StoreSpec
from videojob.store.errors import StoreError

Json = Mapping[str, Any]
REQUIRED: Final = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
OPTIONAL: Final = ("AWS_SESSION_TOKEN",)

_VALUE = re.compile(r"[!-~]+")


class StoreOptions(TypedDict):
    """Keyword arguments of `open_store`."""

    endpoint: str | None
    region: str | None
    credentials: Mapping[str, str] | None
    ca_certificate: str | None


async def read_options(
    spec: StoreSpec, secret: Callable[[str], Awaitable[Json]], config_map: Callable[[str], Awaitable[Json]]
) -> StoreOptions:
    """The options of a pool's store; `secret` and `config_map` get an object of the operator's namespace by its name.

    Raises StoreError, and what these two raise.
    """
    return store_options(
        spec,
        await secret(spec.secret_name) if spec.secret_name is not None else None,
        await config_map(spec.ca_config_map_name) if spec.ca_config_map_name is not None else None,
    )


def store_options(spec: StoreSpec, secret: Json | None, ca: Json | None) -> StoreOptions:
    """The options of a pool's store, given the Secret and the ConfigMap that it names.

    Raises:
        StoreError: A value is missing or cannot be used; the sentence names object and key, and shows no value.
    """
    return StoreOptions(
        endpoint=spec.endpoint,
        region=spec.region,
        credentials=None if spec.secret_name is None else _credentials(spec.secret_name, secret or {}),
        ca_certificate=None if spec.ca_config_map_name is None else _certificate(spec.ca_config_map_name, ca or {}),
    )


def _credentials(name: str, secret: Json) -> dict[str, str]:
    data = secret.get("data") or {}
    for key in REQUIRED:
        if key not in data:
            raise _unusable(f"Secret {name} lacks the key {key}. Add it: the S3 server gives it out")
    return {key: _value(name, key, data[key]) for key in (*REQUIRED, *OPTIONAL) if key in data}


def _value(name: str, key: str, encoded: object) -> str:
    try:
        value = base64.b64decode(str(encoded), validate=True).decode().strip()
    except ValueError:
        value = "\N{REPLACEMENT CHARACTER}"
    if not value:
        raise _unusable(f"The key {key} of Secret {name} is empty. Write there what the S3 server gives out")
    if not _VALUE.fullmatch(value):
        raise _unusable(
            f"The key {key} of Secret {name} holds white space within its value, or letters outside ASCII. Write there "
            "exactly what the S3 server gives out"
        )
    return value


def _certificate(name: str, config_map: Json) -> str:
    pem = str((config_map.get("data") or {}).get(CA_KEY, "")).strip()
    if not pem:
        raise _unusable(
            f"ConfigMap {name}, which store.caConfigMapName names, lacks the key {CA_KEY}. Write there the certificate "
            "of the CA, as PEM"
        )
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem)
    except (ssl.SSLError, ValueError, TypeError):
        raise _unusable(
            f"The key {CA_KEY} of ConfigMap {name}, which store.caConfigMapName names, holds no certificate. Write "
            "there that of the CA, as PEM: it begins with -----BEGIN CERTIFICATE-----"
        ) from None
    return pem


def _unusable(sentence: str) -> StoreError:
    return StoreError(f"{sentence}.", retryable=False)
