"""The base of every API type, and helpers that put Kubernetes' own schema words on a field."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel
from pydantic.config import JsonDict


class Resource(BaseModel):
    """A type of the API: camelCase on the wire, frozen, and tolerant of fields that a newer operator has added."""

    # Errors are logged, and inputs may be prompts.
    model_config = ConfigDict(
        alias_generator=to_camel, validate_by_name=True, frozen=True, extra="ignore", hide_input_in_errors=True
    )

    def wire(self) -> dict[str, Any]:
        """The JSON object that Kubernetes stores: no nulls, names in camelCase."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


Rule = tuple[str, str] | tuple[str, str, str]
"""Expression and message of a CEL rule, and where the message has the value in it, the expression of that message."""


def rules(*given: Rule) -> JsonDict:
    """CEL validation rules."""
    return {"x-kubernetes-validations": [rule(*one) for one in given]}


def rule(*given: str) -> JsonDict:
    """One of them, as the schema has it: its parts by name."""
    return dict(zip(("rule", "message", "messageExpression"), given, strict=False))


def without_default(schema: dict[str, Any]) -> None:
    """The API server sets no default: rules can distinguish what was given."""
    schema.pop("default", None)


def immutable_but(type_: type[Resource], mutable: Collection[str], advice: str) -> list[Rule]:
    """Rules for an object of that type: all its fields but `mutable`, by their names on the wire, are immutable."""
    names = [field.alias or name for name, field in type_.model_fields.items()]
    if unknown := set(mutable) - set(names):
        raise ValueError(f"{type_.__name__} has no {', '.join(sorted(unknown))}")
    return [immutable(name, advice) for name in names if name not in mutable]


def immutable(field: str, advice: str) -> Rule:
    """A rule for the object that holds `field`: the field is neither added, changed nor removed after creation."""
    return (
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} is immutable: {advice}",
    )


MAP_BY_TYPE: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
MAP_BY_NAME: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
SET: JsonDict = {"x-kubernetes-list-type": "set"}
ANY: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
