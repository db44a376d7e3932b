"""Settings of a Triton model from its VideoModel: written to config.pbtxt when rendered, read when it is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final, Literal, get_args

from pydantic import TypeAdapter, ValidationError

from videojob.families import ComponentName, FamilyName, SamplerName
from videojob.triton.contract import Precision, WeightFormat


@dataclass(frozen=True)
class Component:
    """Where a component of a model's pipeline differs from the rest of it."""

    name: ComponentName
    directory: str | None = None
    """Its own `save_pretrained` folder; None for the one in the pipeline's."""
    format: Precision | None = None
    """None for the model's precision."""
    weights: WeightFormat | None = None
    """Number format that the weights of its linear layers are kept in; None for `format`."""
    on_cpu: bool = False


@dataclass(frozen=True)
class Adapter:
    """Low-rank weights (LoRA) that a job may have added to a component's."""

    name: str
    directory: str
    """Folder of its safetensors file."""
    component: ComponentName = ComponentName.TRANSFORMER
    scale: float = 1.0
    weight_name: str | None = None
    """The file's name, where there are several."""

    def file(self) -> Path:
        """Its file. Raises FileNotFoundError and ValueError where there is no such, or several."""
        folder = Path(self.directory)
        if self.weight_name is not None:
            if not (folder / self.weight_name).is_file():
                raise FileNotFoundError(f"The adapter {self.name} has no {self.weight_name} in {folder}.")
            return folder / self.weight_name
        found = sorted(folder.glob("*.safetensors"))
        if not found:
            raise FileNotFoundError(f"The adapter {self.name} has no .safetensors file in {folder}.")
        if len(found) > 1:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"The adapter {self.name} has several files in {folder}: {names}. Set its weightName.")
        return found[0]


Adapters = tuple[Adapter, ...]


@dataclass(frozen=True)
class Sampling:
    """How a model is sampled, where that is not as its folder says."""

    scheduler: SamplerName
    shift: float
    """Of the sigmas."""
    timesteps: tuple[float, ...] = ()
    """In place of those that the scheduler would space: one a step, descending."""


Use = Literal["Required", "Optional"]


@dataclass(frozen=True)
class Images:
    """What images come with each shot."""

    first: Use
    last: Use | None = None
    """None where there is none."""


Components = tuple[Component, ...]
_COMPONENTS: Final[TypeAdapter[Components]] = TypeAdapter(Components)
_ADAPTERS: Final[TypeAdapter[Adapters]] = TypeAdapter(Adapters)
_SAMPLING: Final[TypeAdapter[Sampling | None]] = TypeAdapter(Sampling | None)
_IMAGES: Final[TypeAdapter[Images | None]] = TypeAdapter(Images | None)


@dataclass(frozen=True)
class ModelSettings:
    """One VideoModel as the stages see it. How its videos are cut comes with each request."""

    name: str
    family: FamilyName
    directory: str
    """A `save_pretrained` folder of the family's diffusers pipeline."""
    weights_digest: str
    """Of that folder. No stage reads it; it is here so that other weights make another model."""
    precision: Precision
    components: Components = ()
    """At most one of each name."""
    adapters: Adapters = ()
    """Likewise."""
    sampling: Sampling | None = None
    images: Images | None = None
    """None where it takes none."""


@dataclass(frozen=True)
class ReplicaSettings:
    """Settings of the stages that depend on the replica they run on."""

    control_dir: str
    """Folder that the models of one server share, where cancelled sequences are marked."""
    threads: int = 1
    """CPU threads of each stage. Fixed, because the last bits of a sum depend on how it is divided."""
    max_sequences: int = 4
    """Sequences whose state a stage keeps; the least recently used one makes room and is refused afterwards."""


def to_parameters(model: ModelSettings, replica: ReplicaSettings) -> dict[str, str]:
    """The settings as config.pbtxt parameters, whose values are strings."""
    values = {field.name: str(getattr(part, field.name)) for part in (model, replica) for field in fields(part)}
    return values | {
        "components": _COMPONENTS.dump_json(model.components).decode(),
        "adapters": _ADAPTERS.dump_json(model.adapters).decode(),
        "sampling": _SAMPLING.dump_json(model.sampling).decode(),
        "images": _IMAGES.dump_json(model.images).decode(),
    }


def from_parameters(parameters: Mapping[str, str]) -> tuple[ModelSettings, ReplicaSettings]:
    """The settings that `to_parameters` wrote.

    Raises ValueError with a sentence where a parameter is missing or has no such value.
    """
    expected = [field.name for part in (ModelSettings, ReplicaSettings) for field in fields(part)]
    if missing := [name for name in expected if not parameters.get(name)]:
        raise ValueError(
            f"config.pbtxt lacks the parameters {', '.join(missing)}. A model_repo folder is a template: "
            "render it with videojob.triton.repository before loading it."
        )
    precisions: dict[str, Precision] = {name: name for name in get_args(Precision)}
    if parameters["precision"] not in precisions:
        raise ValueError(f"Parameter precision is {parameters['precision']!r}, not one of {', '.join(precisions)}.")
    try:
        components = _COMPONENTS.validate_json(parameters["components"])
    except ValidationError as error:
        raise ValueError(f"Parameter components is {parameters['components']!r}, no list of components.") from error
    model = ModelSettings(
        name=parameters["name"],
        family=FamilyName(parameters["family"]),
        directory=parameters["directory"],
        weights_digest=parameters["weights_digest"],
        precision=precisions[parameters["precision"]],
        components=components,
        adapters=_ADAPTERS.validate_json(parameters["adapters"]),
        sampling=_SAMPLING.validate_json(parameters["sampling"]),
        images=_IMAGES.validate_json(parameters["images"]),
    )
    replica = ReplicaSettings(
        control_dir=parameters["control_dir"],
        threads=int(parameters["threads"]),
        max_sequences=int(parameters["max_sequences"]),
    )
    return model, replica
