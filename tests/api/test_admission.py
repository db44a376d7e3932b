"""What the API server takes and refuses, with what words: on a real API server, through kubectl."""

import copy
import json
from typing import Any

import pytest

from dev.control_plane import Cluster
from dev.errors import DevError

Json = dict[str, Any]

GOOD: Json = {
    "model": "tiny",
    "shots": [{"prompt": "a fox runs through snow", "seconds": 4}],
}
FULL: Json = {
    **GOOD,
    "queueName": "team",
    "width": 96,
    "height": 64,
    "fps": 16,
    "seed": 7,
    "steps": 2,
    "guidanceScale": 1.5,
    "priority": 5,
    "suspend": True,
    "cancel": False,
    "backoffLimit": 1,
    "activeDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 60,
    "managedBy": "example.com/other",
    "output": {"container": "mp4", "deletionPolicy": "Delete"},
}
MODEL: Json = {
    "family": "AnyFlowFAR",
    "source": {"directory": "/models/tiny"},
    "precision": "float32",
    "memory": {"weightsBytes": 1, "perJobBytes": 1},
}
POOL: Json = {
    "accelerator": "cpu",
    "endpoints": [{"name": "r0", "url": "localhost:8001"}],
    "models": ["tiny"],
    "store": {"url": "file:///store"},
}


PODS: Json = {
    "accelerator": "nvidia-h200",
    "jobsPerReplica": 2,
    "models": ["tiny"],
    "operatorNamespace": "team-a",
    "scaling": {"minReplicas": 1, "maxReplicas": 8, "targetSeconds": 60},
    "store": {"url": "file:///store"},
    "template": {
        "image": "registry.example/videojob-triton:1",
        "tritonResources": {"requests": {"cpu": 4, "memory": "64Gi"}, "limits": {"memory": "64Gi"}},
        "nodeSelector": {"gpu": "h200"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "volumes": [{"name": "weights", "persistentVolumeClaim": {"claimName": "weights"}}],
        "volumeMounts": [{"name": "weights", "mountPath": "/weights", "readOnly": True}],
        "env": [{"name": "HF_HOME", "value": "/weights"}],
    },
}


def manifest(kind: str, spec: Json, name: str = "one") -> Json:
    return {"apiVersion": "videojob.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def with_field(spec: Json, path: str, value: Any) -> Json:
    changed = copy.deepcopy(spec)
    *parents, last = path.split(".")
    node: Any = changed
    for part in parents:
        node = node[int(part)] if part.isdigit() else node.setdefault(part, {})
    if value is None:
        node.pop(last, None)
    else:
        node[last] = value
    return changed


def refusal(cluster: Cluster, namespace: str, body: Json) -> str:
    with pytest.raises(DevError) as refused:
        cluster.kubectl("create", "--namespace", namespace, "-f", "-", input=json.dumps(body))
    return str(refused.value)


BAD_JOBS = [
    ("shots", None, "spec.shots: Required value"),
    ("shots", [], "should have at least 1 items"),
    ("shots", [GOOD["shots"][0]] * 2, "must have at most 1 item"),
    ("shots.0.prompt", None, "spec.shots[0].prompt: Required value"),
    ("shots.0.prompt", "", "should be at least 1 chars long"),
    ("shots.0.prompt", "  \t\n ", "the prompt is blank: say what the shot shows"),
    ("shots.0.prompt", "x" * 4001, "may not be more than 4000"),
    ("shots.0.prompt", 5, "must be of type string"),
    ("shots.0.seconds", None, "spec.shots[0].seconds: Required value"),
    ("shots.0.seconds", 0, "should be greater than 0"),
    ("shots.0.seconds", -3, "should be greater than 0"),
    ("shots.0.seconds", 601, "should be less than or equal to 600"),
    ("shots.0.seconds", "4", "must be of type number"),
    ("shots.0.length", 4, 'unknown field "spec.shots[0].length"'),
    ("model", None, "spec.model: Required value"),
    ("model", "", "should be at least 1 chars long"),
    ("model", "../etc", "should match"),
    ("model", "m" * 64, "may not be more than 63"),
    ("queueName", "Not_A_Name", "should match"),
    ("width", 100, "should be a multiple of 16"),
    ("width", 0, "should be greater than or equal to 16"),
    ("width", -16, "should be greater than or equal to 16"),
    ("height", 90, "should be a multiple of 16"),
    ("height", 4112, "should be less than or equal to 4096"),
    ("height", 64.5, "must be of type integer"),
    ("fps", 0, "should be greater than or equal to 1"),
    ("fps", 61, "should be less than or equal to 60"),
    ("seed", -1, "should be greater than or equal to 0"),
    ("seed", 2**32, "should be less than or equal to 4294967295"),
    ("seed", "random", "must be of type integer"),
    ("steps", 0, "should be greater than or equal to 1"),
    ("steps", 201, "should be less than or equal to 200"),
    ("guidanceScale", -0.1, "should be greater than or equal to 0"),
    ("guidanceScale", 31, "should be less than or equal to 30"),
    ("priority", 1_000_001, "should be less than or equal to"),
    ("suspend", "yes", "must be of type boolean"),
    ("backoffLimit", -1, "should be greater than or equal to 0"),
    ("activeDeadlineSeconds", 0, "should be greater than or equal to 1"),
    ("ttlSecondsAfterFinished", -1, "should be greater than or equal to 0"),
    ("managedBy", "", "should be at least 1 chars long"),
    ("output.container", "avi", 'supported values: "mp4"'),
    ("output.deletionPolicy", "Keep", 'supported values: "Retain", "Delete"'),
    ("resolution", "720p", 'unknown field "spec.resolution"'),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD_JOBS, ids=[f"{path}={str(v)[:12]}" for path, v, _ in BAD_JOBS])
def test_a_bad_job_is_refused_in_words(cluster: Cluster, namespace: str, path: str, value: Any, words: str) -> None:
    message = refusal(cluster, namespace, manifest("VideoJob", with_field(GOOD, path, value)))
    assert words in message
    assert path.rsplit(".", maxsplit=1)[-1] in message or path == "shots.0.length"


def test_a_job_name_that_fits_no_label_is_refused(cluster: Cluster, namespace: str) -> None:
    assert "choose a shorter one" in refusal(cluster, namespace, manifest("VideoJob", GOOD, name="n" * 64))


@pytest.mark.parametrize(
    ("kind", "spec", "path", "value", "words"),
    [
        ("VideoModel", MODEL, "family", "Sora", 'supported values: "AnyFlowFAR"'),
        ("VideoModel", MODEL, "source.directory", "models/tiny", "should match"),
        ("VideoModel", MODEL, "precision", "int4", 'supported values: "float32", "bfloat16"'),
        ("VideoModel", MODEL, "memory", None, "spec.memory: Required value"),
        ("VideoModel", MODEL, "windowLatents", 2, "windowLatents must hold at least one chunk"),
        ("VideoModel", MODEL, "limits", {"maxWidth": 64}, "the default size is beyond limits"),
        ("GPUPool", POOL, "jobsPerReplica", 2, "are for managed pools: remove them, or endpoints"),
        ("GPUPool", POOL, "template", {}, "are for managed pools: remove them, or endpoints"),
        ("GPUPool", PODS, "replicas", 2, "replicas is for scaling.mode External"),
        ("GPUPool", PODS, "scaling.minReplicas", 9, "minReplicas is more than maxReplicas"),
        ("GPUPool", PODS, "scaling.mode", "Manual", 'supported values: "Backlog", "External"'),
        ("GPUPool", PODS, "template.resourceName", "gpu", "should match"),
        ("GPUPool", PODS, "template.terminationGracePeriodSeconds", 5, "should be greater than or equal to 60"),
        ("GPUPool", PODS, "template.tritonResources", {"limits": {"cpu": [1]}}, "must be of type"),
        ("GPUPool", PODS, "template.image", "two words", "should match"),
        ("GPUPool", PODS, "template.shell", "bash", "unknown field"),
        ("GPUPool", POOL, "endpoints", [], "should have at least 1 items"),
        ("GPUPool", POOL, "endpoints", [POOL["endpoints"][0]] * 2, "Duplicate value"),
        ("GPUPool", POOL, "endpoints.0.url", "http://localhost", "should match"),
        ("GPUPool", POOL, "endpoints.0.maxJobs", 0, "should be greater than or equal to 1"),
        ("GPUPool", POOL, "models", [], "should have at least 1 items"),
        ("GPUPool", POOL, "store.url", "/store", "should match"),
        ("GPUPool", POOL, "store.url", "file://store", "should match"),
        ("VideoQueue", {}, "stopPolicy", "Pause", 'supported values: "None", "Hold", "HoldAndDrain"'),
        ("VideoQueue", {}, "weight", 3, 'unknown field "spec.weight"'),
    ],
)
def test_other_bad_objects_are_refused_in_words(
    cluster: Cluster, namespace: str, kind: str, spec: Json, path: str, value: Any, words: str
) -> None:
    assert words in refusal(cluster, namespace, manifest(kind, with_field(spec, path, value)))


def patch(cluster: Cluster, namespace: str, change: Json) -> None:
    body = json.dumps({"spec": change})
    cluster.kubectl("patch", "videojob", "one", "--namespace", namespace, "--type", "merge", "--patch", body)


def create(cluster: Cluster, namespace: str, spec: Json) -> Json:
    text = cluster.kubectl(
        "create", "--namespace", namespace, "-o", "json", "-f", "-", input=json.dumps(manifest("VideoJob", spec))
    )
    created: Json = json.loads(text)
    return created


CHANGED: Json = {
    "model": "other",
    "queueName": "other",
    "shots": [{"prompt": "a fox sleeps", "seconds": 4}],
    "width": 112,
    "height": 112,
    "fps": 8,
    "seed": 8,
    "steps": 3,
    "guidanceScale": 2,
    "backoffLimit": 2,
    "activeDeadlineSeconds": 61,
    "managedBy": "example.com/third",
    "output": {"deletionPolicy": "Retain"},
}


def test_what_is_made_cannot_be_changed_added_or_removed(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, FULL)
    for field, value in CHANGED.items():
        with pytest.raises(DevError, match=f"{field} is immutable: create another job instead"):
            patch(cluster, namespace, {field: value})
    for field in ("width", "height", "fps", "seed", "steps", "guidanceScale", "activeDeadlineSeconds"):
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: None})
    for field in ("queueName", "backoffLimit", "managedBy", "output"):
        # Removing a field that has a default gives it the default: which is a change.
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: None})
    cluster.kubectl("delete", "videojob", "one", "--namespace", namespace)
    create(cluster, namespace, GOOD)
    for field in ("width", "height", "fps", "seed", "steps", "guidanceScale", "activeDeadlineSeconds"):
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: CHANGED[field]})


def test_what_steers_a_job_can_be_changed(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, GOOD)
    patch(cluster, namespace, {"suspend": True, "priority": 9, "ttlSecondsAfterFinished": 5})
    patch(cluster, namespace, {"suspend": False, "priority": -9, "ttlSecondsAfterFinished": None})
    patch(cluster, namespace, {"cancel": True})
    with pytest.raises(DevError, match="cancel cannot be taken back"):
        patch(cluster, namespace, {"cancel": False})


def test_a_new_job_says_that_it_waits_before_anybody_wrote_to_it(cluster: Cluster, namespace: str) -> None:
    status = create(cluster, namespace, GOOD)["status"]
    assert (status["phase"], status["reason"], status["attempts"]) == ("Pending", "Queued", 0)
    assert [(one["type"], one["status"]) for one in status["conditions"]] == [("Assigned", "False")]


def test_kubectl_get_shows_where_the_video_is(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, GOOD)
    plain = cluster.kubectl("get", "vj", "--namespace", namespace).splitlines()
    assert plain[0].split() == ["NAME", "MODEL", "QUEUE", "PHASE", "PROGRESS", "READY", "AGE"]
    wide = cluster.kubectl("get", "vj", "--namespace", namespace, "-o", "wide").splitlines()
    assert wide[0].split() == [*plain[0].split(), "POOL", "REPLICA", "ATTEMPTS", "REASON", "OUTPUT"]


def test_a_pool_made_of_pods_is_taken_whole(cluster: Cluster, namespace: str) -> None:
    name = f"pods-{namespace}"
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", PODS, name)))
    kept = json.loads(cluster.kubectl("get", "gpupool", name, "-o", "json"))["spec"]
    assert kept["template"]["tritonResources"] == PODS["template"]["tritonResources"]
    assert kept["template"]["volumes"] == PODS["template"]["volumes"]
    assert (kept["scaling"]["mode"], kept["scaling"]["idleSeconds"]) == ("Backlog", 300)
    for change, words in (
        ({"operatorNamespace": None}, "operatorNamespace is immutable"),
        ({"endpoints": POOL["endpoints"]}, "a pool of endpoints does not become one of pods"),
    ):
        with pytest.raises(DevError, match=words):
            cluster.kubectl("patch", "gpupool", name, "--type=merge", "--patch", json.dumps({"spec": change}))


def test_the_replicas_of_a_pool_are_scaled_from_outside_only_where_it_says_so(cluster: Cluster, namespace: str) -> None:
    name = f"scaled-{namespace}"
    external = {**PODS, "scaling": {"mode": "External"}, "replicas": 1}
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", external, name)))
    cluster.kubectl("scale", "gpupool", name, "--replicas=3")
    assert cluster.kubectl("get", "gpupool", name, "-o", "jsonpath={.spec.replicas}") == "3"
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", PODS, f"own-{namespace}")))
    with pytest.raises(DevError, match="with mode Backlog the operator decides"):
        cluster.kubectl("patch", "gpupool", f"own-{namespace}", "--type=merge", "--patch", '{"spec": {"replicas": 3}}')
