"""Rendering: from the templates in model_repo/ to the models of a replica's Triton repository.

A template is a valid Triton model with neutral names and a GPU instance. Rendering parses its config.pbtxt, sets what
depends on the VideoModel and the machine, and writes it beside a copy of its code.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from videojob.triton.contract import CONTROL_MODEL, STAGES, model_name
from videojob.triton.settings import ModelSettings, ReplicaSettings, to_parameters

Device = Literal["cpu", "gpu"]

SPARE_CANDIDATES: Final = 32
"""Places in Triton for sequences whose client died. A request that finds no place waits, however idle the model is."""

_CONFIG: Final = "config.pbtxt"


def render(model_repo: Path, target: Path, model: ModelSettings, replica: ReplicaSettings, device: Device) -> str:
    """Write the four models of a VideoModel below `target` and return the name of the one to load, the ensemble.

    Each folder is replaced whole: a Triton that runs on `target` sees the old model or the new one, never a mixture.
    Rendering the same again changes nothing on disk.
    """
    for template, config in _configured(model_repo, model, replica, device):
        _publish(template, target / config.name, config)
    return model_name(model.name, "video_chunk")


def is_rendered(model_repo: Path, target: Path, model: ModelSettings, replica: ReplicaSettings, device: Device) -> bool:
    """Whether `render` would change nothing."""
    return all(
        _files(target / config.name) == _published(template, config)
        for template, config in _configured(model_repo, model, replica, device)
    )


def render_control(model_repo: Path, target: Path, replica: ReplicaSettings) -> str:
    """Write the server's `control` model below `target` and return its name."""
    _publish(model_repo / CONTROL_MODEL, target / CONTROL_MODEL, _control(model_repo, replica))
    return CONTROL_MODEL


def is_control_rendered(model_repo: Path, target: Path, replica: ReplicaSettings) -> bool:
    """Whether `render_control` would change nothing."""
    published = _published(model_repo / CONTROL_MODEL, _control(model_repo, replica))
    return _files(target / CONTROL_MODEL) == published


def touch(target: Path, model: str) -> None:
    """Have Triton take a model below `target`, by its name there, for changed: it loads no other one a second time."""
    for path in (target / model).rglob("*"):
        os.utime(path)


def remove(target: Path, video_model: str) -> None:
    """Delete the models of a VideoModel below `target`, present or not. Unload them first."""
    for stage in STAGES:
        shutil.rmtree(target / model_name(video_model, stage), ignore_errors=True)


def _control(model_repo: Path, replica: ReplicaSettings) -> Any:
    config = _read(model_repo / CONTROL_MODEL / _CONFIG)
    _set_parameters(config, {"control_dir": replica.control_dir})
    return config


def _configured(
    model_repo: Path, model: ModelSettings, replica: ReplicaSettings, device: Device
) -> Iterator[tuple[Path, Any]]:
    """Each stage's template and its configuration."""
    for stage in STAGES:
        config = _read(model_repo / stage / _CONFIG)
        config.name = model_name(model.name, stage)
        for step in config.ensemble_scheduling.step:
            step.model_name = model_name(model.name, step.model_name)
        if config.backend == "python":
            _set_instance(config, device)
            _set_candidates(config, replica)
            _set_parameters(config, to_parameters(model, replica))
        yield model_repo / stage, config


def _read(path: Path) -> Any:
    """Parse a config.pbtxt. Raises ValueError with the place where it is malformed."""
    try:
        return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ValueError(f"{path} is no valid Triton model configuration: {error}") from error


def _set_instance(config: Any, device: Device) -> None:
    """One instance, on the first accelerator that Triton sees: with no `gpus` there would be one on each."""
    for group in config.instance_group:
        group.kind = model_config_pb2.ModelInstanceGroup.Kind.Value(f"KIND_{device.upper()}")
        group.gpus[:] = [0] if device == "gpu" else []


def _set_candidates(config: Any, replica: ReplicaSettings) -> None:
    """More places than a stage keeps states: a sequence whose client died holds its place until it is idle."""
    if config.WhichOneof("scheduling_choice") == "sequence_batching":
        config.sequence_batching.oldest.max_candidate_sequences = replica.max_sequences + SPARE_CANDIDATES


def _set_parameters(config: Any, parameters: Mapping[str, str]) -> None:
    for name, value in parameters.items():
        config.parameters[name].string_value = value


def _publish(template: Path, folder: Path, config: Any) -> None:
    """Put the template's files and `config` at `folder`, by renames within one file system."""
    if _files(folder) == _published(template, config):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".render-", dir=folder.parent) as scratch:
        new = Path(scratch) / "new"
        shutil.copytree(template, new, ignore=shutil.ignore_patterns("__pycache__"))
        (new / _CONFIG).write_bytes(_text(config))
        if folder.exists():
            folder.rename(Path(scratch) / "old")
        new.rename(folder)


def _published(template: Path, config: Any) -> dict[str, bytes]:
    return {**_files(template), _CONFIG: _text(config)}


def _text(config: Any) -> bytes:
    return str(text_format.MessageToString(config)).encode()


def _files(folder: Path) -> dict[str, bytes]:
    """Contents by relative path; what Python compiled beside a running model does not count."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
