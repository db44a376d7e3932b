"""Rendering: what a replica's Triton repository holds for a VideoModel."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from videojob.families import ComponentName, FamilyName, SamplerName
from videojob.runner.triton import ANSWER_SECONDS
from videojob.triton.contract import STAGES, Precision
from videojob.triton.repository import (
    SPARE_CANDIDATES,
    Device,
    is_control_rendered,
    is_rendered,
    remove,
    render,
    render_control,
)
from videojob.triton.settings import (
    Adapter,
    Component,
    ModelSettings,
    ReplicaSettings,
    Sampling,
    from_parameters,
    to_parameters,
)

MODEL_REPO = Path(__file__).parents[2] / "model_repo"
MODEL = ModelSettings(
    name="tiny",
    family=FamilyName.ANYFLOW_FAR,
    directory="/models/tiny",
    weights_digest="sha256:0",
    precision="float32",
)
REPLICA = ReplicaSettings(control_dir="/run/control", threads=2, max_sequences=3)


def config(path: Path) -> Any:
    return text_format.Parse((path / "config.pbtxt").read_text(), model_config_pb2.ModelConfig())


def test_templates_are_for_the_official_image_on_a_gpu() -> None:
    for stage in STAGES:
        template = config(MODEL_REPO / stage)
        assert template.max_batch_size == 0
        if stage == "video_chunk":
            assert template.platform == "ensemble"
        else:
            assert template.backend == "python"
            kinds = [model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in template.instance_group]
            assert kinds == ["KIND_GPU"]


@pytest.mark.parametrize(
    ("device", "precision", "kind"),
    [("cpu", "float32", "KIND_CPU"), ("gpu", "bfloat16", "KIND_GPU"), ("gpu", "float32", "KIND_GPU")],
)
def test_device_and_precision_reach_every_stage(
    tmp_path: Path, device: Device, precision: Precision, kind: str
) -> None:
    model = ModelSettings(**{**MODEL.__dict__, "precision": precision})
    assert render(MODEL_REPO, tmp_path, model, REPLICA, device) == "tiny.video_chunk"
    for stage in STAGES:
        rendered = config(tmp_path / f"tiny.{stage}")
        assert rendered.name == f"tiny.{stage}"
        for group in rendered.instance_group:
            assert model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) == kind
            # Without `gpus` Triton makes an instance on each GPU that it sees, and requests of a sequence may overtake.
            assert (group.count, list(group.gpus)) == (1, [0] if device == "gpu" else [])
        if rendered.backend == "python":
            parameters = {key: value.string_value for key, value in rendered.parameters.items()}
            assert from_parameters(parameters) == (model, REPLICA)
            assert (tmp_path / rendered.name / "1" / "model.py").read_bytes() == (
                MODEL_REPO / stage / "1" / "model.py"
            ).read_bytes()


def test_the_ensemble_calls_its_own_stages(tmp_path: Path) -> None:
    render(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    steps = config(tmp_path / "tiny.video_chunk").ensemble_scheduling.step
    assert [step.model_name for step in steps] == ["tiny.text_encoder", "tiny.denoiser", "tiny.vae_decoder"]


@pytest.mark.parametrize("stage", ["text_encoder", "denoiser", "vae_decoder"])
def test_ensemble_and_stages_agree_on_every_tensor(stage: str) -> None:
    ensemble = config(MODEL_REPO / "video_chunk")
    (step,) = (step for step in ensemble.ensemble_scheduling.step if step.model_name == stage)
    template = config(MODEL_REPO / stage)
    outer = {tensor.name: tensor for tensor in (*ensemble.input, *ensemble.output)}
    for tensors, mapping in ((template.input, step.input_map), (template.output, step.output_map)):
        assert {tensor.name for tensor in tensors} == set(mapping)
        for tensor in tensors:
            same = outer.get(mapping[tensor.name])
            assert same is None or (same.data_type, list(same.dims)) == (tensor.data_type, list(tensor.dims))


def test_a_sequence_outlives_any_chunk() -> None:
    for stage in ("denoiser", "vae_decoder"):
        batching = config(MODEL_REPO / stage).sequence_batching
        assert batching.WhichOneof("strategy_choice") == "oldest"
        assert batching.max_sequence_idle_microseconds == ANSWER_SECONDS * 1_000_000


@pytest.mark.parametrize("sequences", [1, 66])
def test_there_is_a_place_for_every_sequence_that_a_stage_keeps(tmp_path: Path, sequences: int) -> None:
    """66: the 64 jobs that a replica may share, and two attempts that are ending."""
    replica = ReplicaSettings(control_dir="/run/control", max_sequences=sequences)
    render(MODEL_REPO, tmp_path, MODEL, replica, "cpu")
    for stage in ("denoiser", "vae_decoder"):
        batching = config(tmp_path / f"tiny.{stage}").sequence_batching
        assert batching.oldest.max_candidate_sequences == sequences + SPARE_CANDIDATES
    assert not config(tmp_path / "tiny.text_encoder").HasField("sequence_batching")


def test_rendering_again_changes_nothing_and_a_change_replaces_the_folder(tmp_path: Path) -> None:
    render(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    folder = tmp_path / "tiny.denoiser"
    before = folder.stat().st_ino
    (folder / "1" / "__pycache__").mkdir()
    render(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    assert folder.stat().st_ino == before
    render(MODEL_REPO, tmp_path, MODEL, REPLICA, "gpu")
    assert folder.stat().st_ino != before
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(f"tiny.{stage}" for stage in STAGES)


def test_other_weights_are_another_model(tmp_path: Path) -> None:
    """So whoever finds a folder rendered knows which weights Triton has read."""
    other = ModelSettings(**{**MODEL.__dict__, "weights_digest": "sha256:1"})
    assert not is_rendered(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    render(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    (tmp_path / "tiny.denoiser" / "1" / "__pycache__").mkdir()
    assert is_rendered(MODEL_REPO, tmp_path, MODEL, REPLICA, "cpu")
    assert not is_rendered(MODEL_REPO, tmp_path, other, REPLICA, "cpu")
    assert not is_rendered(MODEL_REPO, tmp_path, MODEL, REPLICA, "gpu")


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_how_a_model_is_made_reaches_every_stage_as_it_is(tmp_path: Path, device: Device) -> None:
    """A stage stays where it is: it places its component itself."""
    components = (
        Component(ComponentName.TEXT_ENCODER, 'a "b"', on_cpu=True),
        Component(ComponentName.VAE, None, "float32"),
    )
    adapters = (Adapter("ink", '/a "b"', ComponentName.TRANSFORMER_2, 0.5, "ink.safetensors"),)
    sampling = Sampling(SamplerName.FLOW_MATCH_LCM, 8.0, (1000.0, 757.0, 522.0))
    model = ModelSettings(**{**MODEL.__dict__, "components": components, "adapters": adapters, "sampling": sampling})
    render(MODEL_REPO, tmp_path, model, REPLICA, device)
    for stage in ("text_encoder", "denoiser", "vae_decoder"):
        rendered = config(tmp_path / f"tiny.{stage}")
        parameters = {key: value.string_value for key, value in rendered.parameters.items()}
        assert from_parameters(parameters) == (model, REPLICA)
        kinds = [model_config_pb2.ModelInstanceGroup.Kind.Name(group.kind) for group in rendered.instance_group]
        assert kinds == [f"KIND_{device.upper()}"]
    assert not is_rendered(MODEL_REPO, tmp_path, MODEL, REPLICA, device)


def test_a_models_name_and_directory_are_data(tmp_path: Path) -> None:
    directory = 'a "quoted"\\path\n} instance_group { count: 9 }'
    model = ModelSettings(**{**MODEL.__dict__, "directory": directory})
    render(MODEL_REPO, tmp_path, model, REPLICA, "cpu")
    rendered = config(tmp_path / "tiny.denoiser")
    assert rendered.parameters["directory"].string_value == directory
    assert len(rendered.instance_group) == 1


def test_two_models_and_control_stand_side_by_side_and_one_is_removed(tmp_path: Path) -> None:
    for name in ("a", "b"):
        render(MODEL_REPO, tmp_path, ModelSettings(**{**MODEL.__dict__, "name": name}), REPLICA, "cpu")
    assert not is_control_rendered(MODEL_REPO, tmp_path, REPLICA)
    assert render_control(MODEL_REPO, tmp_path, REPLICA) == "control"
    assert is_control_rendered(MODEL_REPO, tmp_path, REPLICA)
    remove(tmp_path, "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["control", *(f"b.{stage}" for stage in STAGES)])
    assert config(tmp_path / "control").parameters["control_dir"].string_value == "/run/control"


def test_a_broken_template_is_named(tmp_path: Path) -> None:
    broken = tmp_path / "text_encoder"
    broken.mkdir()
    (broken / "config.pbtxt").write_text("max_batch_size: none")
    with pytest.raises(ValueError, match=r"text_encoder/config\.pbtxt is no valid"):
        render(tmp_path, tmp_path / "out", MODEL, REPLICA, "cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"directory": ""}, "lacks the parameters directory"),
        ({"precision": "int4"}, "precision is 'int4'"),
        ({"family": "Sora"}, "Sora"),
        ({"components": '[{"name": "scheduler"}]'}, "components is .*, no list of components"),
    ],
    ids=["missing", "precision", "family", "components"],
)
def test_unusable_parameters_are_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_parameters({**to_parameters(MODEL, REPLICA), **change})
