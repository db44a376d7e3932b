"""Writes the CustomResourceDefinitions: `python -m videojob.api.crds DIR`.

pydantic's JSON Schema becomes the structural OpenAPI v3 schema that Kubernetes takes: references inlined, titles
dropped, "or null" unions turned into optional fields, exclusive bounds in their OpenAPI form.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from videojob.api import GROUP, VERSION
from videojob.api.conditions import ConditionType
from videojob.api.gpupool import GPUPool
from videojob.api.names import MAX_NAME, MAX_POOL_NAME
from videojob.api.reasons import Reason
from videojob.api.schema import Resource, Rule, rule
from videojob.api.videojob import Phase, VideoJob
from videojob.api.videomodel import VideoModel
from videojob.api.videoqueue import VideoQueue

Json = dict[str, Any]

INITIAL_STATUS: Json = {
    "phase": Phase.PENDING.value,
    "reason": Reason.QUEUED.value,
    "attempts": 0,
    "failures": 0,
    "conditions": [
        {
            "type": ConditionType.ASSIGNED.value,
            "status": "False",
            "reason": Reason.QUEUED.value,
            "message": "The job is queued.",
            "lastTransitionTime": "1970-01-01T00:00:00Z",
        }
    ],
}
"""The status of a new job, before any write: saves one write a job."""


def _at_most(characters: int) -> Rule:
    return (
        f"self.metadata.name.size() <= {characters}",
        f"the name has more than {characters} characters: choose a shorter one",
    )


@dataclass(frozen=True)
class Kind:
    """What a CRD has beside its schema."""

    type: type[Resource]
    plural: str
    short: str
    namespaced: bool
    columns: tuple[tuple[str, str, str, int], ...]
    """Name, type, JSON path, and priority (1 is shown only by `-o wide`)."""
    name_rules: tuple[Rule, ...] = (_at_most(MAX_NAME),)
    """On metadata.name, which every reference to the object must be able to repeat."""
    selectable: tuple[str, ...] = ()
    initial_status: Json | None = None
    scale: Json | None = None


POOL_NAME_RULES: tuple[Rule, ...] = (
    _at_most(MAX_POOL_NAME),
    (
        "!self.metadata.name.contains('.')",
        "the name of a GPUPool has no dots: write '-' instead",
        "'the name of a GPUPool has no dots: write ' + self.metadata.name.replace('.', '-')",
    ),
)
"""Its Deployment, pods and Leases are named after it: pool and replica are told apart by the first dot."""
AGE = ("Age", "date", ".metadata.creationTimestamp", 0)
KINDS = (
    Kind(
        VideoJob,
        "videojobs",
        "vj",
        True,
        (
            ("Model", "string", ".spec.model", 0),
            ("Queue", "string", ".spec.queueName", 0),
            ("Phase", "string", ".status.phase", 0),
            ("Progress", "string", ".status.progress.summary", 0),
            ("Ready", "number", ".status.progress.secondsReady", 0),
            AGE,
            ("Pool", "string", ".status.pool", 1),
            ("Replica", "string", ".status.assignment.replica", 1),
            ("Attempts", "integer", ".status.attempts", 1),
            ("Reason", "string", ".status.reason", 1),
            ("Output", "string", ".status.output.uri", 1),
        ),
        selectable=(
            ".spec.queueName",
            ".spec.model",
            ".status.phase",
            ".status.assignment.pool",
            ".status.assignment.replica",
        ),
        initial_status=INITIAL_STATUS,
    ),
    Kind(
        VideoQueue,
        "videoqueues",
        "vq",
        True,
        (
            ("Stop", "string", ".spec.stopPolicy", 0),
            ("Pending", "integer", ".status.pendingJobs", 0),
            ("Active", "integer", ".status.activeJobs", 0),
            AGE,
        ),
    ),
    Kind(
        VideoModel,
        "videomodels",
        "vm",
        False,
        (
            ("Family", "string", ".spec.family", 0),
            ("Precision", "string", ".spec.precision", 0),
            AGE,
            ("Directory", "string", ".spec.source.directory", 1),
        ),
    ),
    Kind(
        GPUPool,
        "gpupools",
        "gp",
        False,
        (
            ("Accelerator", "string", ".spec.accelerator", 0),
            ("Desired", "integer", ".status.desiredReplicas", 0),
            ("Ready", "integer", ".status.readyReplicas", 0),
            ("Busy", "integer", ".status.busyReplicas", 0),
            ("Running", "integer", ".status.runningJobs", 0),
            ("Waiting", "integer", ".status.waitingJobs", 0),
            ("Backlog", "integer", ".status.backlogSeconds", 0),
            AGE,
            ("Reason", "string", '.status.conditions[?(@.type=="Ready")].reason', 1),
            ("Scaling", "string", '.status.conditions[?(@.type=="ScalingActive")].reason', 1),
            ("Store", "string", ".spec.store.url", 1),
        ),
        name_rules=POOL_NAME_RULES,
        scale={
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
)


def structural(node: Json, definitions: Json) -> Json:
    """A node of pydantic's JSON Schema as a node of a structural schema."""
    if "$ref" in node:
        target = definitions[node["$ref"].removeprefix("#/$defs/")]
        return structural({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    if "anyOf" in node and "x-kubernetes-int-or-string" not in node:
        (option,) = [choice for choice in node["anyOf"] if choice != {"type": "null"}]
        rest = {key: value for key, value in node.items() if key not in ("anyOf", "default")}
        return structural({**option, **rest}, definitions)
    schema: Json = {}
    for key, value in node.items():
        if key == "title" or (key == "additionalProperties" and "x-kubernetes-preserve-unknown-fields" in node):
            continue
        if key == "properties":
            schema[key] = {name: structural(child, definitions) for name, child in value.items()}
        elif key in ("items", "additionalProperties"):
            schema[key] = structural(value, definitions) if isinstance(value, dict) else value
        elif key == "const":
            schema["enum"] = [value]
        elif key == "default" and isinstance(value, dict):  # A field that may be omitted has no null there either.
            schema[key] = {name: each for name, each in value.items() if each is not None}
        elif key in ("exclusiveMinimum", "exclusiveMaximum"):
            schema[key.replace("exclusiveM", "m")] = value
            schema[key] = True
        elif key == "format" and value not in ("date-time",):
            continue
        elif key == "description":
            schema[key] = " ".join(value.split())
        else:
            schema[key] = value
    if schema.get("type") == "integer":
        schema["format"] = "int64"
    return schema


UNQUOTED = {
    "integer": "a number, without quotes",
    "number": "a number, without quotes",
    "boolean": "true or false, without quotes",
}
"""What to write instead of a text, by type (docs/decisions/0012)."""


def explain_quotes(schema: Json) -> None:
    """Add the words of UNQUOTED to every node.

    They are a `pattern`, which is for texts alone, and the type refuses every text: so it decides nothing. But the API
    server checks both, and where somebody wrote a text it gives the pattern beside its own wording of the type.
    """
    if (words := UNQUOTED.get(schema.get("type", ""))) is not None:
        schema["pattern"] = words
    for child in schema.get("properties", {}).values():
        explain_quotes(child)
    for key in ("items", "additionalProperties"):
        if isinstance(child := schema.get(key), dict):
            explain_quotes(child)


def definition(kind: Kind) -> Json:
    """The CustomResourceDefinition of one kind."""
    raw = kind.type.model_json_schema(by_alias=True)
    definitions = raw.get("$defs", {})
    name = kind.type.__name__
    properties = {
        field: structural(node, definitions) for field, node in raw["properties"].items() if field != "metadata"
    }
    for field in properties.values():
        field.pop("default", None)
    explain_quotes(properties["spec"])
    required = [field for field in raw.get("required", []) if field != "metadata"]
    if "spec" not in required:
        properties["spec"]["default"] = {}
    if kind.initial_status is not None:
        properties["status"]["default"] = kind.initial_status
    root: Json = {
        "type": "object",
        "description": " ".join((kind.type.__doc__ or "").split()),
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            # With the name among its properties a rule can name it as the field at fault.
            "metadata": {"type": "object", "properties": {"name": {"type": "string"}}},
            **properties,
        },
        "x-kubernetes-validations": [{**rule(*one), "fieldPath": ".metadata.name"} for one in kind.name_rules],
    }
    if required:
        root["required"] = required
    version: Json = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": root},
        "additionalPrinterColumns": [
            {"name": column, "type": type_, "jsonPath": path, **({"priority": priority} if priority else {})}
            for column, type_, path, priority in kind.columns
        ],
    }
    if "status" in properties:
        version["subresources"] = {"status": {}, **({"scale": kind.scale} if kind.scale else {})}
    if kind.selectable:
        version["selectableFields"] = [{"jsonPath": path} for path in kind.selectable]
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced" if kind.namespaced else "Cluster",
            "names": {
                "kind": name,
                "listKind": f"{name}List",
                "plural": kind.plural,
                "singular": name.lower(),
                "shortNames": [kind.short],
                # Not "videojob": kubectl would take `kubectl patch videojob NAME` for the whole category.
                "categories": ["videos"],
            },
            "versions": [version],
        },
    }


class _Plain(yaml.SafeDumper):
    """Writes what is shared twice, instead of as an alias."""

    def ignore_aliases(self, data: object) -> bool:
        return True


def main() -> None:
    """Write one file a kind."""
    parser = argparse.ArgumentParser(description="Write the CustomResourceDefinitions.")
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory
    directory.mkdir(parents=True, exist_ok=True)
    for kind in KINDS:
        text = yaml.dump(definition(kind), Dumper=_Plain, sort_keys=False, width=120, allow_unicode=True)
        (directory / f"{kind.plural}.yaml").write_text("# Generated by `make generate`; do not edit.\n" + text)


if __name__ == "__main__":
    main()
