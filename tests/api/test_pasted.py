"""Values as people have them from elsewhere, pasted into a job: taken as they are meant, or refused with a sentence.

On a real API server, through kubectl, in YAML as people write it.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from dev.control_plane import Cluster
from dev.errors import DevError
from tests.api.admission import GOOD, MODEL, PODS, POOL, Json, create, manifest, patch, refusal, with_field
from videojob.api.crds import KINDS, UNQUOTED, definition
from videojob.api.names import MAX_SEED
from videojob.api.videojob import VideoJob

LINES: dict[str, str] = {"model": "tiny", "shots": "[{prompt: a fox, seconds: 4}]"}

TAKEN = [
    ("seed: 1041855999812345", 1041855999812345),
    (f"seed: {MAX_SEED}", MAX_SEED),
    ("seed: 0", 0),
    # kubectl reads YAML 1.1: all that the API server is sent is 83.
    ("seed: 0123", 83),
    ("fps: 24", 24),
    ("fps: 24.0", 24),
    ("fps: 23.976", 23.976),
    ("fps: 29.97", 29.97),
    ("fps: 59.94", 59.94),
    ("width: 832.0", 832),
    ("steps: 4.0", 4),
    ("guidanceScale: 5", 5),
    ("guidanceScale: 5.5", 5.5),
    ("guidanceScale: 0", 0),
    ('shots: [{prompt: x, seconds: "4"}]', "4"),
    ('shots: [{prompt: x, seconds: "600.0"}]', "600.0"),
    ('shots: [{prompt: x, seconds: "0.25"}]', "0.25"),
    ("shots: [{prompt: x, seconds: 2.5}]", 2.5),
    ("managedBy: videojob.dev/operator", "videojob.dev/operator"),
    ("managedBy: kueue.x-k8s.io/multikueue", "kueue.x-k8s.io/multikueue"),
]

NUMBER = "should match 'a number, without quotes'"
TRUTH = "should match 'true or false, without quotes'"

REFUSED = [
    ("seed: -1", "seed is negative: leave seed out, and a random one is drawn"),
    (f"seed: {2**63}", f"seed is more than {MAX_SEED}: write a smaller one"),
    (f"seed: {2**64 - 1}", f"seed is more than {MAX_SEED}: write a smaller one"),
    ("seed: 0.5", "seed is a whole number: write it without a fraction"),
    ('seed: "7"', NUMBER),
    ("seed: random", NUMBER),
    ("fps: 23.98", "fps is a whole number, 23.976, 29.97 or 59.94: write 23.976"),
    ("fps: 29.9700299700", "fps is a whole number, 23.976, 29.97 or 59.94: write 29.97"),
    ("fps: 59.9", "fps is a whole number, 23.976, 29.97 or 59.94: write 60"),
    ("fps: 59.94006", "fps is a whole number, 23.976, 29.97 or 59.94: write 59.94"),
    ("fps: 12.5", "fps is a whole number, 23.976, 29.97 or 59.94: write 13"),
    ("fps: 24000/1001", NUMBER),
    ('fps: "24"', NUMBER),
    ("height: 1080", "this is a multiple of 16: write 1072 or 1088"),
    ("height: 540.0", "this is a multiple of 16: write 528 or 544"),
    ("width: 832.5", "this is a multiple of 16: write 832 or 848"),
    ('width: "832"', NUMBER),
    ('height: "480"', NUMBER),
    ("height: 1080p", NUMBER),
    ('steps: "4"', NUMBER),
    ("steps: 4.5", "steps is a whole number: write 5"),
    ('guidanceScale: "5"', NUMBER),
    ('guidanceScale: "5.0"', NUMBER),
    ('priority: "9"', NUMBER),
    ('backoffLimit: "0"', NUMBER),
    ('activeDeadlineSeconds: "60"', NUMBER),
    ("activeDeadlineSeconds: 10m", NUMBER),
    ('ttlSecondsAfterFinished: "60"', NUMBER),
    ('suspend: "true"', TRUTH),
    ('cancel: "no"', TRUTH),
    ("shots: [{prompt: x, seconds: 4s}]", "seconds in body should match 'a number above 0, at most 3600"),
    ("shots: [{prompt: x, seconds: four}]", "seconds in body should match 'a number above 0, at most 3600"),
    ('shots: [{prompt: x, seconds: "1:30"}]', "seconds in body should match 'a number above 0, at most 3600"),
]


def pasted(line: str, name: str = "one") -> str:
    field, _, value = line.partition(":")
    spec = "\n".join(f"  {key}: {text}" for key, text in {**LINES, field: value.strip()}.items())
    return f"apiVersion: videojob.dev/v1alpha1\nkind: VideoJob\nmetadata: {{name: {name}}}\nspec:\n{spec}\n"


@pytest.mark.parametrize(("line", "value"), TAKEN, ids=[line for line, _ in TAKEN])
def test_what_can_be_meant_in_one_way_is_taken(cluster: Cluster, namespace: str, line: str, value: Any) -> None:
    field = line.partition(":")[0]
    for options in ([], ["--server-side"]):
        cluster.kubectl("apply", *options, "--validate=strict", "-n", namespace, "-f", "-", input=pasted(line))
    stored = json.loads(cluster.kubectl("get", "videojob", "one", "-n", namespace, "-o", "json"))
    given: Any = stored["spec"].get(field)
    read: Any = VideoJob.model_validate(stored).spec.wire().get(field)
    if field == "shots":
        given, read = given[0]["seconds"], read[0]["seconds"]
        assert read == float(value)
    else:
        assert (read, type(read)) == (value, float if field == "guidanceScale" else type(value))
    assert given == value


@pytest.mark.parametrize(("line", "words"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_cannot_is_refused_with_what_to_write(cluster: Cluster, namespace: str, line: str, words: str) -> None:
    for options in ([], ["--validate=false"], ["--validate=warn", "--dry-run=server"]):
        with pytest.raises(DevError) as refused:
            cluster.kubectl("apply", *options, "--namespace", namespace, "-f", "-", input=pasted(line))
        message = str(refused.value)
        assert words in message
        assert f"spec.{line.partition(':')[0]}" in message
        assert "evaluating rule" not in message


@pytest.mark.parametrize("line", ['fps: "24"', 'priority: "9"'])
def test_server_side_apply_refuses_a_text_by_its_own_sentence(cluster: Cluster, namespace: str, line: str) -> None:
    field = line.partition(":")[0]
    with pytest.raises(DevError, match=rf"\.spec\.{field}: expected numeric .*, got string"):
        cluster.kubectl("apply", "--server-side", "--namespace", namespace, "-f", "-", input=pasted(line))


def test_what_a_client_writes_with_a_point_is_the_whole_number(cluster: Cluster, namespace: str) -> None:
    # kubectl takes 832.0 for 832 by itself; others, such as Python's json, send the point.
    given = {"width": 832.0, "height": 480.0, "fps": 24.0, "steps": 4.0, "seed": 7.0, "guidanceScale": 1.0}
    url = f"/apis/videojob.dev/v1alpha1/namespaces/{namespace}/videojobs"
    body = manifest("VideoJob", {**GOOD, **given})
    stored = json.loads(cluster.kubectl("create", "--raw", url, "-f", "-", input=json.dumps(body)))
    read = VideoJob.model_validate(stored).spec
    assert (read.width, read.height, read.fps, read.steps, read.seed) == (832, 480, 24, 4, 7)
    body["metadata"]["resourceVersion"] = stored["metadata"]["resourceVersion"]
    body["spec"]["priority"] = 5
    again = json.loads(cluster.kubectl("replace", "--raw", f"{url}/one", "-f", "-", input=json.dumps(body)))
    assert again["spec"]["priority"] == 5
    body["metadata"]["resourceVersion"] = again["metadata"]["resourceVersion"]
    body["spec"]["width"] = 848.0
    with pytest.raises(DevError, match="width is immutable"):
        cluster.kubectl("replace", "--raw", f"{url}/one", "-f", "-", input=json.dumps(body))


def test_a_quoted_number_is_as_immutable_as_another(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, with_field(GOOD, "shots.0.seconds", "4"))
    for seconds in ("5", 5):
        with pytest.raises(DevError, match="is immutable"):
            patch(cluster, namespace, {"shots": [{**GOOD["shots"][0], "seconds": seconds}]})


TEXTS = [
    ("GPUPool", PODS, "jobsPerReplica", NUMBER),
    ("GPUPool", PODS, "scaling.targetSeconds", NUMBER),
    ("GPUPool", POOL, "endpoints.0.maxJobs", NUMBER),
    ("VideoModel", MODEL, "defaults.steps", NUMBER),
    ("VideoModel", MODEL, "memory.weightsBytes", NUMBER),
]


@pytest.mark.parametrize(("kind", "spec", "path", "words"), TEXTS, ids=[f"{kind}.{path}" for kind, _, path, _ in TEXTS])
def test_other_kinds_answer_a_text_in_the_same_words(
    cluster: Cluster, namespace: str, kind: str, spec: Json, path: str, words: str
) -> None:
    message = refusal(cluster, namespace, manifest(kind, with_field(spec, path, "4")))
    assert words in message
    assert path.rpartition(".")[2] in message


def test_every_number_and_truth_of_a_spec_has_its_words() -> None:
    found = [
        (f"{kind.type.__name__}.{path}", node)
        for kind in KINDS
        for path, node in nodes("spec", definition(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
        if node.get("type") in UNQUOTED
    ]
    assert len(found) > 30
    assert [path for path, node in found if node.get("pattern") != UNQUOTED[node["type"]]] == []


def nodes(name: str, parent: Json) -> Iterator[tuple[str, Json]]:
    """All nodes of a schema below the property, with their paths."""
    node = parent["properties"][name]
    yield name, node
    for inner in (node, node.get("items", {}), node.get("additionalProperties", {})):
        for child in inner.get("properties", {}):
            yield from ((f"{name}.{path}", found) for path, found in nodes(child, inner))
