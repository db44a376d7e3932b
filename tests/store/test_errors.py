"""Whatever is wrong with a store, the error is a sentence for a person, without a secret."""

import asyncio
import dataclasses
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import obstore
import pytest
from obstore.exceptions import GenericError, PermissionDeniedError
from obstore.store import S3Store

from tests.s3 import S3Server, running_s3
from tests.store.conftest import Place, without_pauses
from tests.store.writing import commit, segment
from videojob.store import JobStore, StoreError, check_store, open_store
from videojob.store import objects as objects_module
from videojob.store.errors import explain
from videojob.store.objects import Objects

SECRET = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "never-to-be-seen"}


@pytest.fixture
def bucket(s3_server: S3Server) -> Place:
    """A bucket on the S3 server, with the credentials of its owner."""
    name = s3_server.bucket()
    return Place(f"s3://{name}/videos", s3_server.buckets / name, s3_server.endpoint, s3_server.credentials)


async def failure_of(place: Place) -> StoreError:
    """The error that a job meets in this store; the store's check must fail in the same way."""
    with pytest.raises(StoreError) as checked:
        await check_store(place.open(), without_pauses())
    with pytest.raises(StoreError) as caught:
        await commit(place.job(), 0)
    ending = str(caught.value).split(": ", 1)[1]
    assert str(checked.value).split(": ", 1)[1] == ending
    assert checked.value.retryable == caught.value.retryable
    assert caught.value.unavailable
    return caught.value


async def test_a_store_that_works_passes_its_check(place: Place) -> None:
    await check_store(place.open())
    assert place.files() == set()


async def test_no_such_bucket(bucket: Place) -> None:
    missing = dataclasses.replace(bucket, url="s3://missing/videos")
    error = await failure_of(missing)
    assert str(error) == (
        "The store failed to list team/0b5c/closed: the bucket does not exist. "
        "Create it, or correct the pool's store URL."
    )
    assert not error.retryable
    for read in (missing.job().committed, missing.job().output, lambda: missing.job().purge(keep_output=True)):
        with pytest.raises(StoreError, match="the bucket does not exist"):
            await read()


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
async def test_wrong_credentials(bucket: Place, wrong: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    given = {**(bucket.credentials or {}), wrong: "never-to-be-seen"}
    error = await failure_of(dataclasses.replace(bucket, credentials=given))
    assert "does not accept the credentials. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY" in str(error)
    assert not error.retryable
    assert error.__cause__ is None
    for secret in given.values():
        assert secret not in str(error) + repr(error) + caplog.text


async def test_access_denied(bucket: Place, s3_server: S3Server) -> None:
    error = await failure_of(dataclasses.replace(bucket, credentials=s3_server.user()))
    assert "access is denied" in str(error)
    assert not error.retryable


async def test_what_may_be_written_and_not_read(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """No job could go on from its last chunk there."""

    async def refuse(*_: object) -> None:
        raise PermissionDeniedError("<Code>AccessDenied</Code>")

    monkeypatch.setattr(obstore, "get_async", refuse)
    with pytest.raises(StoreError, match=r"access is denied\. Allow this account to read, write, list and delete"):
        await check_store(bucket.open(), without_pauses())


@pytest.mark.parametrize("given", [None, b"something else"], ids=["nothing", "something else"])
async def test_a_store_that_gives_back_something_else(
    place: Place, given: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def get(self: Objects, key: str) -> bytes | None:
        return given

    monkeypatch.setattr(Objects, "get", get)
    with pytest.raises(StoreError, match="does not give back what was put there"):
        await check_store(place.open())


async def test_nobody_listens(bucket: Place) -> None:
    error = await failure_of(dataclasses.replace(bucket, endpoint="http://127.0.0.1:1"))
    assert "it cannot be reached" in str(error)
    assert error.retryable


@pytest.fixture
async def silent() -> AsyncIterator[str]:
    """A server that takes connections and never answers."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        for writer in taken:
            writer.transport.abort()


async def test_no_answer(bucket: Place, silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "REQUEST_SECONDS", 0.2)
    error = await failure_of(dataclasses.replace(bucket, endpoint=silent))
    assert "it did not answer in time" in str(error)
    assert error.retryable


@asynccontextmanager
async def forgetful(endpoint: str, forgets: int) -> AsyncIterator[str]:
    """Before a server: so many connections are taken and never answered, as by a balancer whose server has gone."""
    host, port = endpoint.removeprefix("http://").split(":")
    taken = 0

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal taken
        taken += 1
        if taken <= forgets:
            await reader.read()
            writer.transport.abort()
            return
        there, back = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pass_on(reader, back), pass_on(there, writer), return_exceptions=True)

    server = await asyncio.start_server(connect, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_a_request_that_nobody_answers_is_made_again(bucket: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_module, "REQUEST_SECONDS", 1.0)
    assert bucket.endpoint is not None
    async with forgetful(bucket.endpoint, forgets=2) as endpoint:
        job = JobStore(dataclasses.replace(bucket, endpoint=endpoint).open(), "team", "0b5c")
        await commit(job, 0)
        (record,) = (await job.committed()).pieces
        assert await job.read_segment(record) == segment(0)


async def test_a_server_that_dies_and_comes_back(tmp_path: Path) -> None:
    with running_s3(tmp_path) as server:
        name = server.bucket()
        place = Place(f"s3://{name}", server.buckets / name, server.endpoint, server.credentials)
        await commit(place.job(), 0)
        server.kill()
        with pytest.raises(StoreError, match="cannot be reached") as caught:
            await commit(place.job(), 1)
        assert caught.value.retryable
        server.start()
        await commit(place.job(), 1)
        assert len((await place.job().committed()).pieces) == 2


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("", "must be file:///folder or s3://bucket/prefix"),
        ("/tmp/videos", "must be file:///folder or s3://bucket/prefix"),
        ("gopher://host/videos", "must be file:///folder or s3://bucket/prefix"),
        ("s3:///videos", "must name a bucket"),
        ("file://host/videos", "must name a folder of this machine"),
        ("file:videos", "must name a folder of this machine"),
        ("s3://bucket/videos?versioned=1", "must not have a query"),
        ("file:///dev/null/videos", "failed to make the folder /dev/null/videos"),
    ],
    ids=["empty", "path", "scheme", "no-bucket", "host", "relative", "query", "not-a-folder"],
)
def test_bad_urls(url: str, sentence: str) -> None:
    with pytest.raises(StoreError, match=sentence):
        open_store(url)


@pytest.mark.parametrize("missing", sorted(SECRET))
def test_incomplete_credentials(missing: str) -> None:
    given = {name: value for name, value in SECRET.items() if name != missing}
    with pytest.raises(StoreError, match=f"lack {missing}") as caught:
        open_store("s3://bucket", credentials=given)
    assert "never-to-be-seen" not in str(caught.value)


async def test_given_credentials_do_not_mix_with_those_of_the_environment(
    bucket: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-somebody-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-somebody-else")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of-somebody-else")
    await check_store(bucket.open())


def test_no_secret_in_any_repr() -> None:
    store = open_store("s3://bucket/prefix", credentials=SECRET)
    job = JobStore(store, "team", "0b5c")
    assert isinstance(store, S3Store)
    for shown in (repr(store), str(store), repr(store.config), repr(job), repr(vars(job)), job.uri()):
        assert "never-to-be-seen" not in shown


@pytest.mark.parametrize(
    ("raised", "sentence", "retryable"),
    [
        (GenericError("x <Code>InvalidToken</Code>"), "does not accept the credentials", False),
        (GenericError("x <Code>ExpiredToken</Code>"), "have expired", False),
        (GenericError("x <Code>RequestTimeTooSkewed</Code>"), "clocks", False),
        (GenericError("x <Code>XMinioStorageFull</Code>"), "it is full", True),
        (GenericError("status code: 507 Insufficient Storage"), "it is full", True),
        (GenericError("status code: 503 Slow Down <Code>SlowDown</Code>"), "problem of its own", True),
        (GenericError("status code: 429 Too Many Requests"), "problem of its own", True),
        (GenericError("status code: 403 Forbidden"), "access is denied", False),
        (GenericError("Disk quota exceeded (os error 122)"), "it is full", True),
        (GenericError("File too large (os error 27)"), "it is full", True),
        (PermissionDeniedError("Permission denied (os error 13)"), "access is denied", False),
        (GenericError("Input/output error (os error 5)"), "problem of its own", True),
        (TimeoutError(), "did not answer in time", True),
        (GenericError("Something new.\n\nDebug source:\nsecret"), "Something new", True),
        (GenericError("<?xml?><Code>New</Code><Message>Said.</Message><AWSAccessKeyId>k"), "Said", True),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, Exception) else "",
)
def test_what_an_error_means(raised: Exception, sentence: str, retryable: bool) -> None:
    error = explain(raised, "write a")
    assert str(error).startswith("The store failed to write a: ")
    assert sentence in str(error)
    assert str(error).endswith(".")
    assert "secret" not in str(error)
    assert "AccessKey" not in str(error)
    assert error.retryable == retryable


# A full and a read-only disk need a file system of their own. It is mounted in a mount namespace that ends with the
# process, so that nothing is left behind, and for users other than root also in a user namespace.

MOUNT = 'mount -t tmpfs -o "$1" tmpfs "$2" && shift 2 && exec "$@"'


def own_namespace() -> tuple[str, ...] | None:
    """The command that gives a process mounts of its own, if this machine allows it."""
    for command in (("unshare", "--mount"), ("unshare", "--user", "--map-root-user", "--mount")):
        test = (*command, "sh", "-c", MOUNT, "sh", "size=1m", "/tmp", "true")
        if subprocess.run(test, check=False, capture_output=True, timeout=30).returncode == 0:
            return command
    return None


def on_tmpfs(options: str, folder: Path, *command: str) -> tuple[str, ...]:
    """The command, with a tmpfs mounted at `folder` that only it sees."""
    unshare = own_namespace()
    if unshare is None:
        pytest.fail(
            "This machine lets nobody mount a tmpfs (neither as root nor in a user namespace), so a full and a "
            "read-only disk cannot be tested. Run the tests as root, or allow unprivileged user namespaces."
        )
    return (*unshare, "sh", "-c", MOUNT, "sh", options, str(folder), *command)


COMMIT = """
import asyncio, json, sys
from pathlib import Path
from tests.store.conftest import Place
from videojob.store import StoreError

async def main():
    job = Place("file://" + sys.argv[1], Path()).job()
    try:
        for index in range(100):
            unit = await job.commit_unit(index=index, attempt=1, checkpoint=bytes(100_000), stage_seconds={})
            units = [unit.record]
            await job.commit_piece(
                index=index, attempt=1, frames=12, segment=bytes(300_000), units=units, stage_seconds={}
            )
    except StoreError as error:
        readable = [len(await job.read_segment(record)) for record in (await job.committed()).pieces]
        freed = await job.purge(keep_output=False)
        print(json.dumps([str(error), error.retryable, readable, freed, [str(p) for p in Path(sys.argv[1]).iterdir()]]))

asyncio.run(main())
"""


def committed_by(
    command: Callable[..., tuple[str, ...]], folder: Path, **options: object
) -> tuple[str, bool, list[int], int, list[str]]:
    """What a process met that commits chunks until its store fails."""
    done = subprocess.run(
        command(sys.executable, "-c", COMMIT, str(folder)),
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
        **options,  # type: ignore[call-overload]
    )
    assert done.returncode == 0, done.stderr
    sentence, retryable, readable, freed, left = json.loads(done.stdout)
    return sentence, retryable, readable, freed, left


def test_a_full_disk_loses_nothing_that_was_committed(tmp_path: Path) -> None:
    sentence, retryable, readable, freed, left = committed_by(
        lambda *command: on_tmpfs("size=2m", tmp_path, *command), tmp_path
    )
    assert "it is full. Free some space or raise its quota" in sentence
    assert retryable
    assert readable == [300_000] * 5
    assert freed >= 20
    assert left == [], "a write that failed left something that a purge does not find"


def test_a_read_only_disk(tmp_path: Path) -> None:
    sentence, retryable, readable, _, _ = committed_by(lambda *command: on_tmpfs("ro", tmp_path, *command), tmp_path)
    assert "it is read-only. Mount it writable" in sentence
    assert not retryable
    assert readable == []


async def test_a_full_s3_server(tmp_path: Path) -> None:
    buckets = tmp_path / "buckets"
    within = on_tmpfs("size=2m", buckets, "sh", "-c", 'mkdir "$0/full" && exec "$@"', str(buckets))
    with running_s3(tmp_path, within=within, options=("--nometa",)) as server:
        place = Place("s3://full", Path(), server.endpoint, server.credentials)
        with pytest.raises(StoreError) as caught:
            for index in range(100):
                await place.job().commit_unit(index=index, attempt=1, checkpoint=bytes(300_000), stage_seconds={})
        units = (await place.job().committed()).units
        assert units
        assert await place.job().read_checkpoints(units) == [bytes(300_000)] * len(units)
        assert "it is full" in str(caught.value)
        assert caught.value.retryable
