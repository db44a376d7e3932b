"""Pipeline folders of diffusers, and the text encoder that Wan and the families grown from it share."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from diffusers.pipelines.wan.pipeline_wan import prompt_clean

from videojob.families import FamilyName
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


def load(directory: Path, pipeline: Any, dtype: torch.dtype, *without: str) -> Any:
    """The pipeline of a folder, but for the components named in `without`."""
    return pipeline.from_pretrained(
        directory, dtype=dtype, local_files_only=True, use_safetensors=True, **dict.fromkeys(without)
    )


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
