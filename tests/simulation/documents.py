"""JSON documents as an API server treats them: patches, selectors, defaults. Documents are never changed in place."""

from collections.abc import Mapping, Sequence
from typing import Any

Json = dict[str, Any]


class PatchError(Exception):
    """A JSON patch does not apply; the real API server does not say why."""


def json_patch(document: Json, operations: Sequence[Json]) -> Json:
    """RFC 6902, as evanphx/json-patch applies it: all of it or nothing. Raises PatchError."""
    result: Any = document
    for operation in operations:
        path = [part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]]
        result = _step(result, path, operation)
    if not isinstance(result, dict):
        raise PatchError("no object is left")
    return result


def _step(node: Any, path: list[str], operation: Json) -> Any:
    name = operation["op"]
    if not path:
        raise PatchError("the whole document")
    key, *rest = path
    if isinstance(node, list):
        return _step_in_list(node, key, rest, operation)
    if not isinstance(node, dict):
        raise PatchError(f"{key} is below no object")
    if rest:
        if key not in node:
            raise PatchError(f"{key} is missing")
        return {**node, key: _step(node[key], rest, operation)}
    if name == "add":
        return {**node, key: operation["value"]}
    if name == "test":
        if node.get(key) != operation.get("value"):
            raise PatchError(f"{key} is another")
        return node
    if key not in node:
        raise PatchError(f"{key} is missing")
    if name == "replace":
        return {**node, key: operation["value"]}
    if name == "remove":
        return {other: value for other, value in node.items() if other != key}
    raise PatchError(f"operation {name}")


def _step_in_list(node: list[Any], key: str, rest: list[str], operation: Json) -> Any:
    name = operation["op"]
    if key == "-":
        if rest or name != "add":
            raise PatchError("- is only for add")
        return [*node, operation["value"]]
    index = int(key)
    if index >= len(node) + (name == "add" and not rest):
        raise PatchError(f"{index} is beyond the list")
    if rest:
        return [*node[:index], _step(node[index], rest, operation), *node[index + 1 :]]
    if name == "add":
        return [*node[:index], operation["value"], *node[index:]]
    if name == "remove":
        return [*node[:index], *node[index + 1 :]]
    if name == "replace":
        return [*node[:index], operation["value"], *node[index + 1 :]]
    if name == "test" and node[index] == operation.get("value"):
        return node
    raise PatchError(f"{index} is another")


def merge_patch(document: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(document) if isinstance(document, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merge_patch(result.get(key), value)
    return result


def matches(document: Json, labels: Mapping[str, str], fields: Mapping[str, str]) -> bool:
    """Whether an object is one of those that equality selectors select."""
    if labels:
        there = document["metadata"].get("labels") or {}
        if any(there.get(key) != value for key, value in labels.items()):
            return False
    return all(_field(document, path) == value for path, value in fields.items())


def _field(document: Json, path: str) -> str:
    node: Any = document
    for part in path.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return "" if node is None else str(node)


def selector(text: str) -> dict[str, str]:
    """An equality selector."""
    pairs = (term.split("=", 1) for term in text.split(",") if term)
    return {key.rstrip("!"): value.lstrip("=") for key, value in pairs}


def with_defaults(schema: Json, value: Any) -> Any:
    """What an API server fills in from a structural schema."""
    if isinstance(value, dict):
        result = dict(value)
        for name, field in schema.get("properties", {}).items():
            if name not in result and "default" in field:
                result[name] = field["default"]
            if name in result:
                result[name] = with_defaults(field, result[name])
        return result
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(schema["items"], item) for item in value]
    return value
