"""Names of objects, and values that people give in more than one form: as they are taken, and why they are refused.

The type check of a schema comes before its CEL rules, and its wording cannot be chosen. So where a sentence is due, the
type is the widest one that CEL can judge, and the rule says what to write instead.
"""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field
from pydantic.config import JsonDict

from videojob.api.schema import Rule, rules
from videojob.families import NTSC, frame_rate

LABEL = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
SUBDOMAIN = rf"^{LABEL}(\.{LABEL})*$"
MAX_NAME = 63
"""Characters of a name of ours: it fits a label's value."""
MAX_POOL_NAME = 41
"""Characters of a pool's name: `pool-NAME-TEMPLATEHASH-XXXXX`, its pods' names, then has at most 63 as well."""

MAX_SEED = 2**63 - 2**10
"""The largest seed: the last number below 2**63 that CEL, which compares numbers as doubles, tells from 2**63."""


def sentence(pattern: str, message: str) -> Callable[[dict[str, Any]], None]:
    """For `json_schema_extra`: the pattern as a CEL rule with that message, in place of the schema's own wording."""

    def change(schema: dict[str, Any]) -> None:
        schema.pop("pattern", None)
        schema.update(rules((f"self.matches(r'{pattern}')", message)))

    return change


def _name(limit: int, pattern: str, message: str) -> Any:
    return Field(min_length=1, max_length=limit, pattern=pattern, json_schema_extra=sentence(pattern, message))


CHARACTERS = "lower-case letters, digits, '-' and '.'"
ObjectName = Annotated[str, _name(253, SUBDOMAIN, f"the name of an object has only {CHARACTERS}")]
"""A reference to any object of Kubernetes: a DNS subdomain, as it takes for names."""
ModelName = Annotated[
    str,
    _name(MAX_NAME, SUBDOMAIN, f"this is the name of a VideoModel (kubectl get videomodels): it has only {CHARACTERS}"),
]
QueueName = Annotated[
    str,
    _name(MAX_NAME, SUBDOMAIN, f"this is the name of a VideoQueue (kubectl get videoqueues): it has only {CHARACTERS}"),
]
Folder = Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^/")]
"""An absolute path on the replicas."""
AdapterName = Annotated[
    str, _name(MAX_NAME, SUBDOMAIN, f"the name of an adapter of the VideoModel has only {CHARACTERS}")
]
EndpointName = Annotated[str, _name(MAX_NAME, SUBDOMAIN, f"the name of an endpoint has only {CHARACTERS}")]
"""It may have dots, as names of hosts do: a pool's name has none, so that `lease_name` keeps the two apart."""
AcceleratorClass = Annotated[
    str, _name(MAX_NAME, SUBDOMAIN, f"the class of an accelerator has only {CHARACTERS}, such as nvidia-h200")
]
NamespaceName = Annotated[
    str, _name(MAX_NAME, f"^{LABEL}$", "the name of a namespace has only lower-case letters, digits and '-'")
]
ManagerName = Annotated[
    str,
    _name(
        63,
        rf"^{LABEL}(\.{LABEL})*/[A-Za-z0-9/\-._~%!$&()*+,;=:]+$",
        "managedBy is a domain-prefixed path, as of batch/v1, such as example.com/controller",
    ),
]

_WHOLE = "double(int(self)) == self"


def _number(*given: Rule) -> JsonDict:
    """An integer whose schema is a number: CEL refuses a fraction with a sentence, and 832.0 is taken for 832."""
    return {"type": "number", **rules(*given)}


def _whole(name: str, least: int, most: int) -> Any:
    """A whole number within bounds, which the schema itself checks."""
    return Field(
        ge=least,
        le=most,
        json_schema_extra=_number(
            (
                f"self < {least}.0 || self > {most}.0 || {_WHOLE}",
                f"{name} is a whole number",
                f"'{name} is a whole number: write %d'.format([int(self + 0.5)])",
            )
        ),
    )


MAX_ADAPTERS = 16
MAX_FPS = 60


def _rate(fps: float) -> float:
    """The number as it is written: 24 for 24.0."""
    if frame_rate(fps) > MAX_FPS:
        raise ValueError(f"{fps:g} fps are more than {MAX_FPS}")
    return int(fps) if fps == int(fps) else fps


def _fps(schema: dict[str, Any]) -> None:
    """A number near one of NTSC is meant for it; any other is told the next whole one."""
    names = f"a whole number, {', '.join(map(str, [*NTSC][:-1]))} or {[*NTSC][-1]}"
    near = {fps: f"self > {int(fps)}.9 && self < {int(fps) + 1}.0" for fps in NTSC}
    schema.pop("anyOf", None)
    schema.update(
        {
            "minimum": 1,
            "maximum": MAX_FPS,
            **_number(
                (
                    f"self < 1.0 || self > {MAX_FPS}.0 || {_WHOLE} || {' || '.join(near.values())}",
                    f"fps is {names}",
                    f"'fps is {names}: write %d'.format([int(self + 0.5)])",
                ),
                *((f"!({there}) || self == {fps}", f"fps is {names}: write {fps}") for fps, there in near.items()),
            ),
        }
    )


def _any_number(schema: dict[str, Any]) -> None:
    schema.pop("anyOf", None)
    schema["type"] = "number"


FPS = Annotated[int | float, AfterValidator(_rate), Field(json_schema_extra=_fps)]
"""Frames per second, as people write them: whole, or one of NTSC. To compute with it, take its `frame_rate`."""
ResolvedFPS = Annotated[int | float, AfterValidator(_rate), Field(json_schema_extra=_any_number)]
"""The same on a status, which nobody writes by hand."""
Steps = Annotated[int, _whole("steps", 1, 200)]


def _seed(schema: dict[str, Any]) -> None:
    for bound in ("minimum", "maximum"):
        schema.pop(bound, None)
    schema.update(
        _number(
            ("self >= 0.0", "seed is negative: leave seed out, and a random one is drawn and kept in status.resolved"),
            (f"self <= {MAX_SEED}.0", f"seed is more than {MAX_SEED}: write a smaller one, at most 63 bits"),
            (f"self < 0.0 || self > {MAX_SEED}.0 || {_WHOLE}", "seed is a whole number: write it without a fraction"),
        )
    )


Seed = Annotated[int, Field(ge=0, le=MAX_SEED, json_schema_extra=_seed)]

MAX_SIDE = 4096


def _side(schema: dict[str, Any]) -> None:
    schema.pop("multipleOf", None)
    schema.update(
        _number(
            (
                f"self < 16.0 || self > {MAX_SIDE}.0 || {_WHOLE} && int(self) % 16 == 0",
                "this is a multiple of 16",
                "'this is a multiple of 16: write %d or %d'.format([int(self) / 16 * 16, int(self) / 16 * 16 + 16])",
            )
        )
    )


Side = Annotated[int, Field(ge=16, le=MAX_SIDE, multiple_of=16, json_schema_extra=_side)]
"""Pixels of a frame's width or height."""


def _number_or_text(words: str, pattern: str, **bounds: float) -> Any:
    """A number, or the same in quotes. A schema without a type is the only one that takes both.

    CEL cannot see such a field (rules that compare the object around it do), so what no JSON number is, is kept out by
    bounds that hold for other types. `pattern` is that of the text. The API server answers with the whole pattern, so
    `words` come first in it, as a branch that matches nothing.
    """

    def change(schema: dict[str, Any]) -> None:
        for key in ("type", "anyOf"):
            schema.pop(key, None)
        schema.update(
            {
                **bounds,
                "x-kubernetes-preserve-unknown-fields": True,
                "pattern": f"{words}$^|{pattern}",
                "maxLength": 32,
                "maxItems": 0,
                "maxProperties": 0,
                "not": {"enum": [True, False, [], {}]},
            }
        )

    return change


MAX_SECONDS = 3600
Seconds = Annotated[
    float,
    Field(
        gt=0,
        le=MAX_SECONDS,
        json_schema_extra=_number_or_text(
            f"a number above 0, at most {MAX_SECONDS}",
            r"^(([1-9][0-9]{0,2}|[12][0-9]{3}|3[0-5][0-9]{2})(\.[0-9]+)?|3600(\.0+)?|0?\.0*[1-9][0-9]*)$",
        ),
    ),
]
"""Seconds of video."""
Quantity = Annotated[
    int | float | str,
    Field(
        json_schema_extra=_number_or_text(
            "a quantity such as 500m, 0.5 or 64Gi",
            r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$",
            minimum=0,
        )
    ),
]
"""Of cpu, memory or another resource, as in a pod: a number, or a text such as 500m or 64Gi."""
