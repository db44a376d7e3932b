"""The client of the store is written in Rust, and may panic: then too a caller meets a StoreError."""

import ast
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import videojob.store
from tests.store.conftest import without_pauses
from videojob.store import StoreError, check_store, open_store
from videojob.store.errors import border
from videojob.store.objects import Objects

SECRET = {"AWS_ACCESS_KEY_ID": "who", "AWS_SECRET_ACCESS_KEY": "never-to-be-seen"}

OPERATIONS: dict[str, Callable[[Objects, Path], Awaitable[object]]] = {
    "create": lambda objects, path: objects.create("a", b"x"),
    "put": lambda objects, path: objects.put("a", b"x"),
    "upload": lambda objects, path: objects.upload("a", path, 1),
    "get": lambda objects, path: objects.get("a"),
    "list": lambda objects, path: objects.list("a"),
    "delete": lambda objects, path: objects.delete(["a"]),
}


@pytest.mark.parametrize("operation", OPERATIONS)
async def test_a_panic_of_a_request_is_a_store_error(operation: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    store = open_store(
        "s3://bucket", endpoint="http://127.0.0.1:1", credentials={**SECRET, "AWS_ACCESS_KEY_ID": "who\n"}
    )
    with pytest.raises(StoreError, match=r"internal error.*line feeds") as caught:
        await OPERATIONS[operation](Objects(store, without_pauses()), tmp_path / "file")
    assert not caught.value.retryable


@pytest.mark.parametrize(
    "settings",
    [{"endpoint": "http://a b"}, {"endpoint": "http://[::1"}, {"endpoint": "http://host:99999"}, {"region": "eu\n"}],
    ids=["space", "bracket", "port", "line-feed"],
)
async def test_settings_that_make_the_client_panic(settings: dict[str, str]) -> None:
    with pytest.raises(StoreError, match="Check url, endpoint and region"):
        await check_store(
            open_store("s3://bucket", **{"endpoint": "http://127.0.0.1:1", **settings}, credentials=SECRET),
            without_pauses(),
        )


@pytest.mark.parametrize("prefix", ["a//b", "../b"])
def test_a_prefix_that_the_client_refuses(prefix: str) -> None:
    with pytest.raises(StoreError, match="failed to open s3://bucket"):
        open_store(f"s3://bucket/{prefix}", credentials=SECRET)


def test_a_panic_that_is_no_exception() -> None:
    class PanicException(BaseException):
        """As pyo3 makes them; which call of obstore ends so depends on its version."""

    with pytest.raises(StoreError, match="internal error"), border("read a"):
        raise PanicException("called `Result::unwrap()` on an `Err` value")


@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_what_ends_the_process_passes(raised: type[BaseException]) -> None:
    with pytest.raises(raised), border("read a"):
        raise raised


def test_obstore_is_called_within_the_border_alone() -> None:
    """Its functions in `Objects`, whose `_run` is the border, and its constructors within a `with border`."""
    package = Path(videojob.store.__file__).parent
    for path in package.glob("*.py"):
        tree = ast.parse(path.read_text())
        guarded = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and "border(" in ast.unparse(block.items[0].context_expr)
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("LocalStore", "S3Store"):
                    assert id(node) in guarded, f"{path.name}:{node.lineno} calls {called} outside of the border"
                if called.startswith("obstore."):
                    assert path.name == "objects.py", f"{path.name}:{node.lineno} calls {called}"
