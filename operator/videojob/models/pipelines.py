"""Pipeline folders of diffusers and their components, and the text encoder of Wan and the families grown from it."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from videojob.families import ComponentName, FamilyName
from videojob.models.parts import Part, Parts
from videojob.triton.contract import ChunkError, ErrorCode

# `max_sequence_length` of the pipelines' calls: embeddings are padded to it, longer prompts would be cut.
_PROMPT_TOKENS: Final = 512


def read_index(directory: Path, family: FamilyName, pipeline: type) -> Mapping[str, Any]:
    """The `model_index.json` of a folder. Raises FileNotFoundError, and ValueError where another pipeline wrote it."""
    path = directory / "model_index.json"
    if not path.is_file():
        raise FileNotFoundError(f"{directory} is no diffusers pipeline folder: it has no model_index.json.")
    index: dict[str, Any] = json.loads(path.read_text())
    if (found := index.get("_class_name")) != pipeline.__name__:
        raise ValueError(f"{directory} is a folder of {found}; the family {family} needs one of {pipeline.__name__}.")
    return index


def load(parts: Parts, family: FamilyName, pipeline: Any, wanted: ComponentName) -> Any:
    """The family's pipeline with that one of its components. Raises as `read_index` and `load_component` do."""
    index = read_index(parts.directory, family, pipeline)
    library, name = index.get(wanted) or ("", "")
    if not name:
        raise ValueError(f"{parts.directory} is no whole pipeline: its model_index.json names no {wanted}.")
    component = load_component(parts[wanted], getattr(import_module(library), name))
    left_out: dict[str, Any] = dict.fromkeys(ComponentName)
    if wanted is not ComponentName.TEXT_ENCODER:
        left_out["tokenizer"] = None
    return pipeline.from_pretrained(parts.directory, local_files_only=True, **(left_out | {wanted: component}))


def load_component(part: Part, model: Any) -> Any:
    """A component, which is of that class.

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
    return loaded.to(part.device)


class PromptEncoder:
    """UMT5 (or T5) encoder with a pipeline's own cleaning and padding."""

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self._limit = min(_PROMPT_TOKENS, pipeline.tokenizer.model_max_length)

    @torch.inference_mode()
    def embeds(self, text: str, name: str = "prompt") -> torch.Tensor:
        """`[1, 512, D]`. Raises ChunkError (PromptTooLong), which calls the text by its name."""
        tokens = len(self._pipeline.tokenizer(prompt_clean(text), truncation=False).input_ids)
        if tokens > self._limit:
            raise ChunkError(
                ErrorCode.PROMPT_TOO_LONG,
                f"The {name} has {tokens} tokens; this model takes at most {self._limit}. Shorten the {name}.",
            )
        embeds: torch.Tensor
        embeds, _ = self._pipeline.encode_prompt(
            text, do_classifier_free_guidance=False, max_sequence_length=_PROMPT_TOKENS
        )
        return embeds
