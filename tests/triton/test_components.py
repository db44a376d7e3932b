"""A model with components of its own on a real tritonserver."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import tritonclient.grpc as grpc

from tests.triton.conftest import MODEL_REPO
from tests.triton.server import PLAN, SETTINGS, Server, Stream
from videojob.families import ComponentName
from videojob.models.anyflow_far import Conditioner, Decoder, Generator
from videojob.models.family import Conditioning
from videojob.models.frames import to_uint8
from videojob.models.noise import Noise
from videojob.models.parts import Parts
from videojob.models.tensors import pack
from videojob.triton.repository import render
from videojob.triton.settings import Component, ModelSettings, ReplicaSettings


@pytest.mark.usefixtures("one_thread")
def test_a_video_is_what_its_components_make_of_it(
    server: Server, settings: ModelSettings, control_dir: Path, tmp_path: Path
) -> None:
    """A text encoder from elsewhere on the CPU, a transformer in bfloat16 but for its weights, a VAE in float32."""
    folder = tmp_path / "pipeline"
    shutil.copytree(settings.directory, folder)
    (folder / "text_encoder").rename(tmp_path / "shared")
    components = (
        Component(ComponentName.TEXT_ENCODER, str(tmp_path / "shared"), on_cpu=True),
        Component(ComponentName.TRANSFORMER, weights="int8"),
        Component(ComponentName.VAE, None, "float32"),
    )
    mixed = replace(settings, name="mixed", directory=str(folder), precision="bfloat16", components=components)
    with grpc.InferenceServerClient(server.grpc) as client:
        client.load_model(render(MODEL_REPO, server.repository, mixed, ReplicaSettings(str(control_dir)), "cpu"))
    stream = Stream(server, mixed.name, "mixed-1")
    (answer,) = stream.make([0])
    stream.end()
    stream.close()

    unit, parts = PLAN.units[0], Parts(folder, torch.device("cpu"), torch.bfloat16, components)
    generator, decoder = Generator(parts), Decoder(parts)
    conditions = Conditioner(parts).encode(Conditioning(SETTINGS.prompt, None))
    *_, last = generator.run(unit, SETTINGS, generator.start(unit, SETTINGS, []), conditions, Noise(7, 0, 0))
    (frames,) = decoder.run(last.tensors, decoder.start(unit, []))
    assert answer.checkpoint == pack(last.tensors)
    assert frames.dtype == torch.float32
    assert np.array_equal(answer.frames, to_uint8(frames).numpy())
