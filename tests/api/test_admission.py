"""What the API server accepts and refuses, and its wording: on a real API server, through kubectl."""

import json
from typing import Any

import pytest

from dev.control_plane import Cluster
from dev.errors import DevError
from tests.api.admission import (
    GOOD,
    MODEL,
    PODS,
    POOL,
    Json,
    create,
    manifest,
    patch,
    refusal,
    with_field,
)
from videojob.api.videojob import MUTABLE, VideoJobSpec

FULL: Json = {
    **GOOD,
    "queueName": "team",
    "width": 96,
    "height": 64,
    "fps": 16,
    "seed": 7,
    "steps": 2,
    "guidanceScale": 1.5,
    "guidanceScale2": 1.25,
    "negativePrompt": "blurred",
    "adapters": ["fewer-steps"],
    "priority": 5,
    "suspend": True,
    "cancel": False,
    "backoffLimit": 1,
    "activeDeadlineSeconds": 60,
    "ttlSecondsAfterFinished": 60,
    "driftPolicy": "Stop",
    "managedBy": "example.com/other",
    "output": {"formats": ["MP4", "HLS"], "deletionPolicy": "Delete"},
}


BAD_JOBS = [
    ("driftPolicy", "Ignore", 'supported values: "Report", "Refresh", "Stop"'),
    ("shots", None, "spec.shots: Required value"),
    ("shots", [], "should have at least 1 items"),
    ("shots", [GOOD["shots"][0]] * 65, "must have at most 64 item"),
    ("shots", [GOOD["shots"][0] | {"memory": "Keep"}], "nothing before the first shot that it could keep"),
    ("shots", [GOOD["shots"][0] | {"memory": "Refresh"}], "nothing before the first shot that it could keep"),
    ("shots", [GOOD["shots"][0], {"seconds": 1}], "spec.shots[1].prompt: Required value"),
    ("shots", [GOOD["shots"][0], {"prompt": " ", "seconds": 1}], "the prompt is blank: describe what the shot shows"),
    ("shots.0.memory", "Forget", 'supported values: "Keep", "Refresh", "Clear"'),
    ("shots.0.memory", "keep", 'supported values: "Keep", "Refresh", "Clear"'),
    ("shots.0.seed", -1, "seed is negative"),
    ("shots.0.seed", 2**63, "seed is more than"),
    ("shots.0.seed", 1.5, "seed is a whole number"),
    ("shots.0.negativePrompt", "x" * 4001, "may not be more than 4000"),
    ("shots.0.fps", 24, 'unknown field "spec.shots[0].fps"'),
    ("shots.0.prompt", None, "spec.shots[0].prompt: Required value"),
    ("shots.0.prompt", "", "should be at least 1 chars long"),
    ("shots.0.prompt", "  \t\n ", "the prompt is blank: describe what the shot shows"),
    ("shots.0.prompt", "x" * 4001, "may not be more than 4000"),
    ("shots.0.prompt", 5, "must be of type string"),
    ("shots.0.seconds", None, "spec.shots[0].seconds: Required value"),
    ("shots.0.seconds", 0, "should be greater than 0"),
    ("shots.0.seconds", -3, "should be greater than 0"),
    ("shots.0.seconds", 3601, "should be less than or equal to 3600"),
    ("shots.0.seconds", "3601", "should match"),
    ("shots.0.seconds", "0", "should match"),
    ("shots.0.seconds", True, "must not validate"),
    ("shots.0.seconds", [4], "must have at most 0 items"),
    ("shots.0.length", 4, 'unknown field "spec.shots[0].length"'),
    ("model", None, "spec.model: Required value"),
    ("model", "", "should be at least 1 chars long"),
    ("model", "../etc", "this is the name of a VideoModel (kubectl get videomodels)"),
    ("model", "Wan-AI/Wan2.1-T2V-1.3B-Diffusers", "this is the name of a VideoModel (kubectl get videomodels)"),
    ("model", "wan2..1", "this is the name of a VideoModel (kubectl get videomodels)"),
    ("model", "m" * 64, "may not be more than 63"),
    ("queueName", "Not_A_Name", "this is the name of a VideoQueue (kubectl get videoqueues)"),
    ("width", 100, "this is a multiple of 16"),
    ("width", 0, "should be greater than or equal to 16"),
    ("width", -16, "should be greater than or equal to 16"),
    ("height", 90, "this is a multiple of 16"),
    ("height", 4112, "should be less than or equal to 4096"),
    ("fps", 0, "should be greater than or equal to 1"),
    ("fps", 61, "should be less than or equal to 60"),
    ("steps", 0, "should be greater than or equal to 1"),
    ("steps", 201, "should be less than or equal to 200"),
    ("guidanceScale", -0.1, "should be greater than or equal to 0"),
    ("guidanceScale", 31, "should be less than or equal to 30"),
    ("guidanceScale2", 31, "should be less than or equal to 30"),
    ("negativePrompt", "x" * 4001, "may not be more than 4000"),
    ("negativePrompt", 5, "must be of type string"),
    ("adapters", ["ink", "ink"], "Duplicate value"),
    ("adapters", ["../ink"], "the name of an adapter of the VideoModel has only"),
    ("adapters", "ink", "must be of type array"),
    ("adapters", [str(each) for each in range(17)], "must have at most 16 items"),
    ("priority", 1_000_001, "should be less than or equal to"),
    ("suspend", "yes", "must be of type boolean"),
    ("backoffLimit", -1, "should be greater than or equal to 0"),
    ("activeDeadlineSeconds", 0, "should be greater than or equal to 1"),
    ("ttlSecondsAfterFinished", -1, "should be greater than or equal to 0"),
    ("managedBy", "", "should be at least 1 chars long"),
    ("managedBy", "not a domain!", "managedBy is a domain-prefixed path"),
    ("managedBy", "other-controller", "managedBy is a domain-prefixed path"),
    ("managedBy", "Example.com/other", "managedBy is a domain-prefixed path"),
    ("managedBy", "example.com/", "managedBy is a domain-prefixed path"),
    ("output.formats", ["AVI"], 'supported values: "MP4", "HLS"'),
    ("output.formats", [], "should have at least 1 items"),
    ("output.formats", ["HLS", "HLS"], "Duplicate value"),
    ("output.deletionPolicy", "Keep", 'supported values: "Retain", "Delete"'),
    ("resolution", "720p", 'unknown field "spec.resolution"'),
]


@pytest.mark.parametrize(("path", "value", "words"), BAD_JOBS, ids=[f"{path}={str(v)[:12]}" for path, v, _ in BAD_JOBS])
def test_a_bad_job_is_refused_in_words(cluster: Cluster, namespace: str, path: str, value: Any, words: str) -> None:
    message = refusal(cluster, namespace, manifest("VideoJob", with_field(GOOD, path, value)))
    assert words in message
    assert path.rsplit(".", maxsplit=1)[-1] in message or path == "shots.0.length"


WAN = MODEL | {"family": "Wan"}
INK = {"name": "ink", "directory": "/adapters/ink"}
LCM = {"scheduler": "FlowMatchLCM"}
ONE_ACCELERATOR = "no model uses more than one accelerator yet: make it 1 and have more replicas"


def test_a_job_name_that_fits_no_label_is_refused(cluster: Cluster, namespace: str) -> None:
    assert "choose a shorter one" in refusal(cluster, namespace, manifest("VideoJob", GOOD, name="n" * 64))


@pytest.mark.parametrize(
    ("kind", "spec", "path", "value", "words"),
    [
        ("VideoModel", MODEL, "family", "Sora", 'supported values: "AnyFlowFAR"'),
        ("VideoModel", MODEL, "source.directory", "models/tiny", "should match"),
        ("VideoModel", MODEL, "precision", "int4", 'supported values: "float32", "bfloat16"'),
        ("VideoModel", MODEL, "memory", None, "spec.memory: Required value"),
        ("VideoModel", MODEL, "components", [{"name": "scheduler"}], '"transformer", "transformer_2", "vae"'),
        ("VideoModel", MODEL, "components", [{"directory": "/vae"}], "spec.components[0].name: Required value"),
        ("VideoModel", MODEL, "components", [{"name": "vae", "directory": "vae"}], "should match"),
        ("VideoModel", MODEL, "components", [{"name": "vae", "format": "int8"}], '"float32", "bfloat16", "float16"'),
        ("VideoModel", MODEL, "components", [{"name": "transformer", "weights": "int4"}], '"int8", "float8"'),
        ("VideoModel", MODEL, "components", [{"name": "vae", "weights": "int8"}], "a vae has hardly any linear layers"),
        (
            "VideoModel",
            WAN | {"adapters": [INK]},
            "components",
            [{"name": "transformer", "weights": "int8"}],
            "remove weights of the components that they are for",
        ),
        ("VideoModel", MODEL, "components", [{"name": "vae", "device": "gpu"}], '"accelerator", "cpu"'),
        ("VideoModel", MODEL, "components", [{"name": "vae"}, {"name": "vae"}], "Duplicate value"),
        ("VideoModel", MODEL, "adapters", [INK], "they are for Wan"),
        ("VideoModel", WAN, "adapters", [INK, INK], "Duplicate value"),
        (
            "VideoModel",
            WAN,
            "adapters",
            [INK | {"name": "Ink wash"}],
            "the name of an adapter of the VideoModel has only",
        ),
        ("VideoModel", WAN, "adapters", [INK | {"directory": "ink"}], "should match"),
        ("VideoModel", WAN, "adapters", [INK | {"weightName": "../ink.safetensors"}], "should match"),
        ("VideoModel", WAN, "adapters", [INK | {"weightName": "ink.ckpt"}], "should match"),
        ("VideoModel", WAN, "adapters", [INK | {"scale": 11}], "should be less than or equal to 10"),
        ("VideoModel", WAN, "adapters", [INK | {"component": "vae"}], '"transformer", "transformer_2"'),
        ("VideoModel", MODEL, "sampling", {"scheduler": "UniPC"}, "sampling, which is for Wan"),
        ("VideoModel", WAN, "sampling", {}, "spec.sampling.scheduler: Required value"),
        ("VideoModel", WAN, "sampling", {"scheduler": "DDIM"}, '"UniPC", "FlowMatchEuler", "FlowMatchLCM"'),
        ("VideoModel", WAN, "sampling", {"scheduler": "UniPC", "shift": 0}, "should be greater than 0"),
        ("VideoModel", WAN, "sampling", {"scheduler": "UniPC", "timesteps": [9]}, "are for the scheduler FlowMatchLCM"),
        ("VideoModel", WAN, "sampling", LCM | {"timesteps": [522, 757, 1000, 1]}, "timesteps descend: write the first"),
        ("VideoModel", WAN, "sampling", LCM | {"timesteps": [1000, 757, 522]}, "make defaults.steps their number"),
        ("VideoModel", WAN, "sampling", LCM | {"timesteps": [1001]}, "should be less than or equal to 1000"),
        ("VideoModel", WAN, "limits", {"maxGuidanceScale": 0.5}, "guidanceScale is beyond limits.maxGuidanceScale"),
        (
            "VideoModel",
            WAN | {"limits": {"maxGuidanceScale": 2}},
            "defaults",
            {"guidanceScale2": 3},
            "guidanceScale2 is beyond limits.maxGuidanceScale",
        ),
        ("VideoModel", MODEL, "defaults", {"guidanceScale2": 3}, "remove defaults.guidanceScale2, which is for Wan"),
        ("VideoModel", MODEL, "drift", {}, "should have at least 1 properties"),
        ("VideoModel", MODEL, "drift", {"motion": 0}, "should be greater than 0"),
        ("VideoModel", MODEL, "drift", {"motion": 1.1}, "should be less than or equal to 1"),
        ("VideoModel", MODEL, "drift", {"flicker": 0.5}, 'unknown field "spec.drift.flicker"'),
        ("VideoModel", MODEL, "windowLatents", 2, "windowLatents must hold at least one chunk"),
        ("VideoModel", MODEL, "limits", {"maxWidth": 64}, "the default size is beyond limits"),
        ("GPUPool", POOL, "jobsPerReplica", 2, "are for managed pools: remove them, or endpoints"),
        ("GPUPool", POOL, "template", {}, "are for managed pools: remove them, or endpoints"),
        ("GPUPool", PODS, "replicas", 2, "replicas is for scaling.mode External"),
        ("GPUPool", PODS, "scaling.minReplicas", 9, "minReplicas is more than maxReplicas"),
        ("GPUPool", PODS, "scaling.mode", "Manual", 'supported values: "Backlog", "External"'),
        ("GPUPool", PODS, "acceleratorsPerReplica", 2, ONE_ACCELERATOR),
        ("GPUPool", PODS, "acceleratorsPerReplica", 10**6, ONE_ACCELERATOR),
        ("GPUPool", POOL, "acceleratorsPerReplica", 8, ONE_ACCELERATOR),
        ("GPUPool", PODS, "acceleratorsPerReplica", 0, "should be greater than or equal to 1"),
        ("GPUPool", PODS, "template.resourceName", "gpu", "should match"),
        ("GPUPool", PODS, "template.terminationGracePeriodSeconds", 5, "should be greater than or equal to 35"),
        ("GPUPool", PODS, "template.tritonResources", {"limits": {"cpu": [1]}}, "must have at most 0 items"),
        ("GPUPool", PODS, "template.image", "two words", "should match"),
        ("GPUPool", PODS, "template.shell", "bash", "unknown field"),
        ("GPUPool", PODS, "template.userIDs", "Root", 'supported values: "Fixed", "Namespace"'),
        ("GPUPool", PODS, "template.runnerResources", {"requests": {"cpu": -1}}, "greater than or equal to 0"),
        ("GPUPool", PODS, "template.runnerResources", {"requests": {"cpu": "half"}}, "a quantity such as 500m"),
        ("GPUPool", PODS, "template.runnerResources", {"requests": {"cpu": True}}, "must not validate"),
        ("GPUPool", PODS, "template.runnerResources", {"requests": {"cpu": {}}}, "must not validate"),
        (
            "GPUPool",
            PODS,
            "rollout.maxUnavailable",
            0,
            "maxUnavailable is a number of replicas, at least 1, or a share",
        ),
        ("GPUPool", PODS, "rollout.maxUnavailable", "0%", "maxUnavailable is a number of replicas"),
        ("GPUPool", PODS, "rollout.maxUnavailable", "101%", "maxUnavailable is a number of replicas"),
        ("GPUPool", PODS, "rollout.maxUnavailable", "4", "maxUnavailable is a number of replicas"),
        ("GPUPool", POOL, "rollout", {}, "are for managed pools: remove them, or endpoints"),
        ("GPUPool", POOL, "endpoints", [], "should have at least 1 items"),
        ("GPUPool", POOL, "endpoints", [POOL["endpoints"][0]] * 2, "Duplicate value"),
        ("GPUPool", POOL, "endpoints.0.url", "http://localhost:8001", "url is host:port without http://"),
        ("GPUPool", POOL, "endpoints.0.url", "localhost", "url is host:port without http://"),
        ("GPUPool", POOL, "endpoints.0.url", "::1:8001", "an IPv6 address is in brackets, such as [::1]:8001"),
        ("GPUPool", POOL, "endpoints.0.name", "GPU_1", "the name of an endpoint has only lower-case letters"),
        (
            "VideoModel",
            MODEL,
            "defaults",
            {"fps": 23.98},
            "fps is a whole number, 23.976, 29.97 or 59.94: write 23.976",
        ),
        ("VideoModel", MODEL, "limits", {"maxWidth": 1080}, "this is a multiple of 16: write 1072 or 1088"),
        ("VideoModel", MODEL, "limits", {"maxFrames": 0}, "should be greater than or equal to 1"),
        ("VideoModel", MODEL, "limits", {"maxFrames": "81"}, "a number, without quotes"),
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


def test_what_a_model_is_made_of_cannot_be_changed(cluster: Cluster, namespace: str) -> None:
    name = f"model-{namespace}"
    encoder = {"name": "text_encoder", "directory": "/umt5-xxl", "format": "bfloat16", "device": "cpu"}
    components = [encoder, {"name": "vae", "format": "float32"}]
    cluster.kubectl(
        "create", "-f", "-", input=json.dumps(manifest("VideoModel", {**MODEL, "components": components}, name))
    )
    kept = json.loads(cluster.kubectl("get", "videomodel", name, "-o", "json"))["spec"]["components"]
    assert kept == [encoder, {"name": "vae", "format": "float32", "device": "accelerator"}]
    for change in ([], [encoder], [encoder, {"name": "vae", "format": "bfloat16"}]):
        with pytest.raises(DevError, match="components is immutable: create a VideoModel of another name instead"):
            body = json.dumps({"spec": {"components": change}})
            cluster.kubectl("patch", "videomodel", name, "--type=merge", "--patch", body)


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
    "guidanceScale2": 3,
    "negativePrompt": "grey",
    "adapters": ["watercolour"],
    "backoffLimit": 2,
    "activeDeadlineSeconds": 61,
    "driftPolicy": "Refresh",
    "managedBy": "example.com/third",
    "output": {"deletionPolicy": "Retain"},
}


OF_THE_VIDEO = ("width", "height", "fps", "seed", "steps", "guidanceScale", "guidanceScale2", "negativePrompt")
WITHOUT_DEFAULT = (*OF_THE_VIDEO, "activeDeadlineSeconds")


def test_what_is_made_cannot_be_changed_added_or_removed(cluster: Cluster, namespace: str) -> None:
    assert {*CHANGED, *MUTABLE} == set(FULL) == set(VideoJobSpec.model_json_schema(by_alias=True)["properties"])
    create(cluster, namespace, FULL)
    for field, value in CHANGED.items():
        with pytest.raises(DevError, match=f"{field} is immutable: create another job instead"):
            patch(cluster, namespace, {field: value})
    for field in WITHOUT_DEFAULT:
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: None})
    for field in ("queueName", "backoffLimit", "driftPolicy", "managedBy", "output"):
        # Removing a field that has a default gives it the default: which is a change.
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: None})
    cluster.kubectl("delete", "videojob", "one", "--namespace", namespace)
    create(cluster, namespace, GOOD)
    for field in WITHOUT_DEFAULT:
        with pytest.raises(DevError, match=f"{field} is immutable"):
            patch(cluster, namespace, {field: CHANGED[field]})


def test_what_steers_a_job_can_be_changed(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, GOOD)
    patch(cluster, namespace, {"suspend": True, "priority": 9, "ttlSecondsAfterFinished": 5})
    patch(cluster, namespace, {"suspend": False, "priority": -9, "ttlSecondsAfterFinished": None})
    patch(cluster, namespace, {"cancel": True})
    with pytest.raises(DevError, match="cancel cannot be undone"):
        patch(cluster, namespace, {"cancel": False})


def test_a_new_job_has_the_condition_that_it_waits_before_any_write(cluster: Cluster, namespace: str) -> None:
    status = create(cluster, namespace, GOOD)["status"]
    assert (status["phase"], status["reason"], status["attempts"]) == ("Pending", "Queued", 0)
    assert [(one["type"], one["status"]) for one in status["conditions"]] == [("Assigned", "False")]


def test_kubectl_get_shows_where_the_video_is(cluster: Cluster, namespace: str) -> None:
    create(cluster, namespace, GOOD)
    plain = cluster.kubectl("get", "vj", "--namespace", namespace).splitlines()
    assert plain[0].split() == ["NAME", "MODEL", "QUEUE", "PHASE", "PROGRESS", "READY", "AGE"]
    wide = cluster.kubectl("get", "vj", "--namespace", namespace, "-o", "wide").splitlines()
    assert wide[0].split() == [*plain[0].split(), "POOL", "REPLICA", "ATTEMPTS", "REASON", "OUTPUT"]


def test_a_managed_pool_with_every_field_is_accepted(cluster: Cluster, namespace: str) -> None:
    name = f"pods-{namespace}"
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", PODS, name)))
    kept = json.loads(cluster.kubectl("get", "gpupool", name, "-o", "json"))["spec"]
    assert kept["template"]["tritonResources"] == PODS["template"]["tritonResources"]
    assert kept["template"]["volumes"] == PODS["template"]["volumes"]
    assert (kept["scaling"]["mode"], kept["scaling"]["idleSeconds"]) == ("Backlog", 300)
    for change, words in (
        ({"operatorNamespace": None}, "operatorNamespace is immutable"),
        ({"endpoints": POOL["endpoints"]}, "a pool of endpoints does not become a managed one"),
    ):
        with pytest.raises(DevError, match=words):
            cluster.kubectl("patch", "gpupool", name, "--type=merge", "--patch", json.dumps({"spec": change}))


def test_replicas_are_scaled_from_outside_only_with_mode_external(cluster: Cluster, namespace: str) -> None:
    name = f"scaled-{namespace}"
    external = {**PODS, "scaling": {"mode": "External"}, "replicas": 1}
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", external, name)))
    cluster.kubectl("scale", "gpupool", name, "--replicas=3")
    assert cluster.kubectl("get", "gpupool", name, "-o", "jsonpath={.spec.replicas}") == "3"
    cluster.kubectl("create", "-f", "-", input=json.dumps(manifest("GPUPool", PODS, f"own-{namespace}")))
    with pytest.raises(DevError, match="with mode Backlog the operator scales the pool"):
        cluster.kubectl("patch", "gpupool", f"own-{namespace}", "--type=merge", "--patch", '{"spec": {"replicas": 3}}')
