"""What people copy can be made: each sample's job by the model that it names."""

from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from dev.control_plane import MANIFESTS
from videojob.api.videomodel import VideoModel
from videojob.controller.reading import read_job
from videojob.families import FamilyName
from videojob.planner.resolve import refusal, resolve

FOLDER: Final = MANIFESTS / "samples"


def documents(path: Path, kind: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document["kind"] == kind]


MODELS: Final = {
    model.metadata.name: model
    for path in FOLDER.glob("*.yaml")
    for model in map(VideoModel.model_validate, documents(path, "VideoModel"))
}
JOBS: Final = [(path, job) for path in sorted(FOLDER.glob("*.yaml")) for job in documents(path, "VideoJob")]


def test_every_family_has_a_sample() -> None:
    assert {MODELS[job["spec"]["model"]].spec.family for _, job in JOBS} == set(FamilyName)


@pytest.mark.parametrize(("path", "body"), JOBS, ids=[path.stem for path, _ in JOBS])
def test_the_model_of_a_sample_allows_its_job(path: Path, body: dict[str, Any]) -> None:
    model = MODELS[body["spec"]["model"]]
    metadata = {"uid": "u", "namespace": "default", "resourceVersion": "1", **body["metadata"]}
    _, job = read_job({**body, "metadata": metadata}, lambda: 7)
    assert refusal(job, model) is None
    resolved = resolve(job, model, "")
    asked = sum(shot["seconds"] for shot in body["spec"]["shots"])
    assert resolved.frames / resolved.rate == pytest.approx(asked, abs=0.5)
    assert len(resolved.shots) == len(body["spec"]["shots"])
