"""The part of an object's metadata that the operator and the runner read."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import Field

from videojob.api.schema import Resource


class ObjectMeta(Resource):
    """The used part of `metav1.ObjectMeta`."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    creation_timestamp: datetime | None = None
    deletion_timestamp: datetime | None = None
    finalizers: tuple[str, ...] = ()
    labels: Mapping[str, str] = Field(default_factory=dict)
    annotations: Mapping[str, str] = Field(default_factory=dict)
