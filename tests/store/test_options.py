"""A Secret and a ConfigMap that people have written become options, or a sentence that names what to correct."""

import base64
from collections.abc import Mapping
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.store.conftest import without_pauses
from videojob.api.gpupool import Store as StoreSpec
from videojob.store import StoreError, check_store, open_store
from videojob.store.options import StoreOptions, read_options, store_options

SPEC = StoreSpec(url="s3://bucket/videos", endpoint="http://127.0.0.1:1", region="us-east-1", secret_name="keys")
KEYS = {"AWS_ACCESS_KEY_ID": b"who", "AWS_SECRET_ACCESS_KEY": b"never-to-be-seen"}
CA = trustme.CA().cert_pem.bytes().decode()


def secret(values: Mapping[str, bytes]) -> dict[str, Any]:
    return {"data": {key: base64.b64encode(value).decode() for key, value in values.items()}}


def options(**changed: bytes) -> StoreOptions:
    return store_options(SPEC, secret({**KEYS, **changed}), None)


def test_options_of_a_pool() -> None:
    assert options() == {
        "endpoint": "http://127.0.0.1:1",
        "region": "us-east-1",
        "credentials": {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "never-to-be-seen"},
        "ca_certificate": None,
    }


def test_without_a_secret_the_cloud_gives_credentials() -> None:
    assert store_options(StoreSpec(url="s3://bucket"), None, None)["credentials"] is None


@pytest.mark.parametrize("around", [b"\n", b"\r\n", b" \t", b"\n\n"], ids=["echo", "windows", "spaces", "two"])
@pytest.mark.parametrize("key", [*KEYS, "AWS_SESSION_TOKEN"])
def test_white_space_at_the_ends_is_taken_off(key: str, around: bytes) -> None:
    assert (options(**{key: around + b"value" + around})["credentials"] or {})[key] == "value"


def test_other_keys_are_not_looked_at() -> None:
    assert set(options(**{"ca.p12": b"\x30\x82\xff\xfe"})["credentials"] or {}) == set(KEYS)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"AKIA\nEXAMPLE", "white space within its value"),
        (b"AKIA EXAMPLE", "white space within its value"),
        (b"\x00", "white space within its value"),
        (b"\x30\x82\xff\xfe", "letters outside ASCII"),
        ("schlüssel".encode(), "letters outside ASCII"),
    ],
    ids=["empty", "blank", "line-feed", "space", "nul", "binary", "umlaut"],
)
@pytest.mark.parametrize("key", [*KEYS, "AWS_SESSION_TOKEN"])
def test_what_cannot_be_used_is_named(key: str, value: bytes, words: str) -> None:
    with pytest.raises(StoreError, match=rf"key {key} of Secret keys .*{words}") as caught:
        options(**{key: value})
    assert "never-to-be-seen" not in str(caught.value)


@pytest.mark.parametrize("key", KEYS)
def test_a_missing_key_is_named(key: str) -> None:
    with pytest.raises(StoreError, match=f"Secret keys lacks the key {key}"):
        store_options(SPEC, secret({name: value for name, value in KEYS.items() if name != key}), None)


@pytest.mark.parametrize("data", [{}, {"data": None}, {"data": {"AWS_ACCESS_KEY_ID": "no base64!"}}])
def test_a_secret_without_data(data: dict[str, Any]) -> None:
    with pytest.raises(StoreError, match="Secret keys"):
        store_options(SPEC, data, None)


@settings(deadline=None, max_examples=50)
@given(st.binary(max_size=12), st.binary(max_size=12))
async def test_whatever_a_secret_holds_ends_in_a_sentence(key_id: bytes, key: bytes) -> None:
    """What passes as a value of a Secret, the client of the store can put into a header."""
    try:
        given_options = options(AWS_ACCESS_KEY_ID=key_id, AWS_SECRET_ACCESS_KEY=key)
    except StoreError as error:
        assert "of Secret keys" in str(error)
        return
    with pytest.raises(StoreError, match="cannot be reached"):
        await check_store(open_store(SPEC.url, **given_options), without_pauses(1))


WITH_CA = SPEC.model_copy(update={"ca_config_map_name": "our-ca"})


def test_a_ca_comes_from_its_config_map() -> None:
    given_options = store_options(WITH_CA, secret(KEYS), {"data": {"ca.crt": f"\n{CA}\n"}})
    assert given_options["ca_certificate"] == CA.strip()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, "lacks the key ca.crt"),
        ({"ca.crt": " "}, "lacks the key ca.crt"),
        ({"ca.crt": "no certificate"}, "holds no certificate"),
        ({"ca.crt": CA.replace("M", "!")}, "holds no certificate"),
        ({"ca.crt": "-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----"}, "holds no certificate"),
        ({"ca.crt": "ä"}, "holds no certificate"),
    ],
    ids=["missing", "blank", "text", "damaged", "short", "umlaut"],
)
def test_a_ca_that_cannot_be_used_is_named(data: dict[str, str], words: str) -> None:
    with pytest.raises(StoreError, match=words) as caught:
        store_options(WITH_CA, secret(KEYS), {"data": data})
    assert "ConfigMap our-ca, which store.caConfigMapName names" in str(caught.value)


async def test_only_what_the_spec_names_is_read() -> None:
    asked: list[str] = []

    async def get(name: str) -> dict[str, Any]:
        asked.append(name)
        return secret(KEYS) if name == "keys" else {"data": {"ca.crt": CA}}

    await read_options(StoreSpec(url="file:///store"), get, get)
    assert asked == []
    await read_options(WITH_CA, get, get)
    assert asked == ["keys", "our-ca"]
