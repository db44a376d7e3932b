"""Pipeline folders of diffusers and their components, and the text encoder of Wan and the families grown from it."""

import json
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from videojob.families import ComponentName, FamilyName
from videojob.models.family import Conditioning
from videojob.models.parts import HOST, Part, Parts
from videojob.models.tensors import Tensors
from videojob.models.weights import keep_weights_as
from videojob.triton.contract import ChunkError, ErrorCode

PROMPT: Final = "prompt_embeds"
"""Of the conditions: `[1, L, D]`."""
NEGATIVE: Final = "negative_prompt_embeds"
"""Of the conditions, with guidance: `[1, L, D]`."""

# `max_sequence_length` of the pipelines' calls: embeddings are padded to it, longer prompts would be cut.
_PROMPT_TOKENS: Final = 512


def read_index(directory: Path, family: FamilyName, *pipelines: type) -> Mapping[str, Any]:
    """The `model_index.json` of a folder. Raises FileNotFoundError, and ValueError where none of these wrote it."""
    path = directory / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no diffusers pipeline folder: it has no model_index.json.")
    index: dict[str, Any] = json.loads(path.read_text())
    names = [pipeline.__name__ for pipeline in pipelines]
    if (found := index.get("_class_name")) not in names:
        needed = " or ".join(names)
        raise ValueError(f"{directory} is a folder of {found}; the family {family} needs one of {needed}.")
    return index


def load(
    parts: Parts,
    family: FamilyName,
    pipeline: Any,
    *wanted: ComponentName,
    resting: Sequence[ComponentName] = (),
    index: Mapping[str, Any] | None = None,
) -> Any:
    """The family's pipeline with these of its components, those in `resting` in host memory.

    With the folder's `index`, another pipeline may have written it. Raises as `read_index` and `load_component` do.
    """
    index = read_index(parts.directory, family, pipeline) if index is None else index
    named = {name for name in ComponentName if any(index.get(name) or ())}
    for name in wanted:
        if name not in named:
            raise ValueError(f"{parts.directory} is no whole pipeline: its model_index.json names no {name}.")
    for own in parts.components:
        if own.name not in named:
            raise ValueError(f"{parts.directory} has no {own.name}: take it out of the model's components.")
    left_out: dict[str, Any] = dict.fromkeys(named)
    for name, part in _WITHOUT_WEIGHTS.items():
        if name not in wanted and index.get(part):
            left_out[part] = None
    loaded = {
        name: load_component(parts[name], _class(*index[name]), HOST if name in resting else None) for name in wanted
    }
    return pipeline.from_pretrained(parts.directory, local_files_only=True, **(left_out | loaded))


_WITHOUT_WEIGHTS: Final = {
    ComponentName.TEXT_ENCODER: "tokenizer",
    ComponentName.IMAGE_ENCODER: "image_processor",
}
"""What pipelines have beside a component, of use to nobody else."""


def _class(library: str, name: str) -> Any:
    return getattr(import_module(library), name)


def load_component(part: Part, model: Any, device: torch.device | None = None) -> Any:
    """A component, which is of that class, on its device, or on that one.

    Raises ValueError where its folder holds another one, or lacks weights: the libraries would draw them at random.
    """
    name = model.__name__
    if (found := json.loads((part.directory / "config.json").read_text()).get("_class_name", name)) != name:
        raise ValueError(f"{part.directory} is a folder of {found}; the model needs one of {name}.")
    loaded, report = model.from_pretrained(
        part.directory, dtype=part.dtype, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    if missing := sorted(report["missing_keys"]):
        raise ValueError(f"{part.directory} lacks {len(missing)} weights of {name}, such as {missing[0]}.")
    if part.weights is not None:
        keep_weights_as(loaded, part.weights)
    return loaded.to(device or part.device)


def require_tokens(tokenizer: Any, text: str, name: str, limit: int) -> None:
    """Raises ChunkError (PromptTooLong), which calls the text by its name, where it has more tokens than are read."""
    tokens, limit = len(tokenizer(text, truncation=False).input_ids), min(limit, tokenizer.model_max_length)
    if tokens > limit:
        raise ChunkError(
            ErrorCode.PROMPT_TOO_LONG,
            f"The {name} has {tokens} tokens; this model takes at most {limit}. Shorten the {name}.",
        )


class PromptEncoder:
    """UMT5 encoder with a pipeline's own cleaning and padding."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    @torch.inference_mode()
    def embeds(self, text: str, name: str = "prompt") -> torch.Tensor:
        """`[1, 512, D]`. Raises ChunkError (PromptTooLong)."""
        require_tokens(self._pipeline.tokenizer, prompt_clean(text), name, _PROMPT_TOKENS)
        embeds: torch.Tensor
        embeds, _ = self._pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=_PROMPT_TOKENS
        )
        return embeds


class PromptConditioner:
    """The text encoder of families that run a pass of the transformer for each of two prompts."""

    def __init__(self, pipeline: Any) -> None:
        self._encoder = PromptEncoder(pipeline)

    def encode(self, conditioning: Conditioning) -> Tensors:
        """See `videojob.models.family.Conditioner`."""
        conditions = {PROMPT: self._encoder.embeds(conditioning.prompt)}
        if conditioning.negative_prompt is not None:
            conditions[NEGATIVE] = self._encoder.embeds(conditioning.negative_prompt, "negative prompt")
        return conditions
