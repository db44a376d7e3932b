"""The base of every API type, and helpers that put Kubernetes' own schema words on a field."""

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


def rules(*pairs: tuple[str, str]) -> JsonDict:
    """CEL validation rules, as (expression, message) pairs."""
    return {"x-kubernetes-validations": [{"rule": rule, "message": message} for rule, message in pairs]}


def immutable(field: str, advice: str) -> tuple[str, str]:
    """A rule for the object that holds `field`: the field is neither added, changed nor removed after creation."""
    return (
        f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})",
        f"{field} is immutable: {advice}",
    )


MAP_BY_TYPE: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
MAP_BY_NAME: JsonDict = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
SET: JsonDict = {"x-kubernetes-list-type": "set"}
INT_OR_STRING: JsonDict = {"x-kubernetes-int-or-string": True}
ANY: JsonDict = {"x-kubernetes-preserve-unknown-fields": True}
