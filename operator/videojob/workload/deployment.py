"""The Deployment of a managed pool.

Triton is a native sidecar: it starts before the runner and is stopped after it, whatever ends the pod. So SIGTERM to
the runner is the drain, and the chunks in flight still find the server that makes them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from videojob.api import API_VERSION
from videojob.api.gpupool import CPU, TRITON_GRPC_PORT, GPUPool
from videojob.api.podtemplate import PodTemplate, Resources, UserIDs
from videojob.api.replica import CUT_OFF_SECONDS, pod_labels
from videojob.api.videomodel import VideoModel

Json = dict[str, Any]

GPU_RESOURCE = "nvidia.com/gpu"
USER = 10001
"""Of both containers: they share files and memory."""
TRITON_HTTP_PORT, TRITON_METRICS_PORT = 8000, 8002
HEALTH_PORT, METRICS_PORT = 8080, 9090
PYTHON = "/opt/videojob/bin/python"
TEMPLATES = "/opt/videojob/model_repo"
SHARED = "/run/videojob"
REPOSITORY = f"{SHARED}/repository"
TOKENS = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
STOP_MARGIN_SECONDS = 30
"""Of the grace period: for a job that is not done with its chunks to stop, and for Triton to end after the runner."""
STAGES_BYTES = 512 << 20
"""For what Triton's stages pass to each other beside frames."""


@dataclass(frozen=True)
class PodDefaults:
    """What all pods of an operator have in common."""

    namespace: str = "videojob-system"
    triton_image: str = ""
    runner_image: str = ""
    runner_account: str = "videojob-runner"
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets with the registries' credentials: every pod gets them, beside those of its pool."""
    cut_off_seconds: int = CUT_OFF_SECONDS
    """For so long a runner goes on without the API server."""
    log_format: str = "json"
    user_ids: UserIDs = UserIDs.FIXED
    """Of pools whose template does not decide."""


class NoImageError(Exception):
    """Neither the pool nor the operator configures an image; the text is what to do."""


def deployment_name(pool: str) -> str:
    """Name of the pool's Deployment."""
    return f"pool-{pool}"


def deployment(pool: GPUPool, models: Iterable[VideoModel], site: PodDefaults, replicas: int | None) -> Json:
    """All fields of a pool's Deployment that the operator owns. Raises NoImageError.

    `models` are those that the pool serves, as far as they are known. Where `replicas` is None, somebody else owns it.
    """
    name, template = pool.metadata.name, pool.spec.template
    common = {
        "app.kubernetes.io/name": "videojob",
        "app.kubernetes.io/component": "replica",
        "app.kubernetes.io/managed-by": "videojob-operator",
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": deployment_name(name),
            "namespace": site.namespace,
            "labels": {**common, **pod_labels(name)},
            "ownerReferences": [
                {
                    "apiVersion": API_VERSION,
                    "kind": "GPUPool",
                    "name": name,
                    "uid": pool.metadata.uid,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            **({} if replicas is None else {"replicas": replicas}),
            "revisionHistoryLimit": 2,
            "progressDeadlineSeconds": template.model_load_seconds + 600,
            "selector": {"matchLabels": pod_labels(name)},
            # Accelerators are scarce: a new pod takes the place of one that has left.
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": 0, "maxUnavailable": pool.spec.rollout.max_unavailable},
            },
            "template": {
                "metadata": {
                    "labels": {**template.labels, **common, **pod_labels(name)},
                    "annotations": {"kubectl.kubernetes.io/default-container": "runner", **template.annotations},
                },
                "spec": _pod(pool, list(models), site),
            },
        },
    }


def shared_memory_bytes(pool: GPUPool, models: Iterable[VideoModel]) -> int:
    """Size of /dev/shm: for the largest chunk three buffers a slot, and two chunks for what Triton's stages pass on.

    Frames are uint8 `[F, H, W, 3]`. The memory counts against the container that writes to it first.
    """
    if pool.spec.template.shared_memory_bytes is not None:
        return pool.spec.template.shared_memory_bytes
    largest = max((_chunk_bytes(model) for model in models), default=0)
    return largest * (3 * pool.spec.jobs_per_replica + 2) + STAGES_BYTES


def _chunk_bytes(model: VideoModel) -> int:
    spec = model.spec
    return spec.most_frames * spec.limits.max_width * spec.limits.max_height * 3


def _pod(pool: GPUPool, models: list[VideoModel], site: PodDefaults) -> Json:
    template = pool.spec.template
    shared = f"{shared_memory_bytes(pool, models) >> 20}Mi"
    pod: Json = {
        "serviceAccountName": template.service_account_name or site.runner_account,
        # The runner alone gets a token, by a volume of its own: models have no business with the API server.
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": template.termination_grace_period_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            **_user_ids(template.user_ids or site.user_ids),
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "initContainers": [_triton(pool, site)],
        "containers": [_runner(pool, site)],
        "volumes": [
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": shared}},
            {"name": "shared", "emptyDir": {}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "token", "projected": {"sources": _token_sources()}},
            *template.volumes,
        ],
    }
    optional = {
        "nodeSelector": template.node_selector,
        "tolerations": list(template.tolerations),
        "affinity": template.affinity,
        "priorityClassName": template.priority_class_name,
        "runtimeClassName": template.runtime_class_name,
        "imagePullSecrets": _pull_secrets(template, site),
    }
    return pod | {key: value for key, value in optional.items() if value}


def _user_ids(source: UserIDs) -> Json:
    return {"runAsUser": USER, "runAsGroup": USER, "fsGroup": USER} if source is UserIDs.FIXED else {}


def _pull_secrets(template: PodTemplate, site: PodDefaults) -> list[Json]:
    """Each once: a list of the API server's with the same name twice cannot be applied."""
    names = (*(secret.name for secret in template.image_pull_secrets), *site.image_pull_secrets)
    return [{"name": name} for name in dict.fromkeys(names)]


def _triton(pool: GPUPool, site: PodDefaults) -> Json:
    template = pool.spec.template
    probe = {"httpGet": {"path": "/v2/health/live", "port": "http"}, "timeoutSeconds": 5}
    return {
        **_container("triton", template.image or site.triton_image, "image", template),
        "restartPolicy": "Always",
        "command": ["videojob-triton"],
        "args": [
            f"--repository={REPOSITORY}",
            f"--grpc-port={TRITON_GRPC_PORT}",
            f"--http-port={TRITON_HTTP_PORT}",
            f"--metrics-port={TRITON_METRICS_PORT}",
        ],
        "env": [{"name": "HOME", "value": "/tmp"}, *(variable.wire() for variable in template.env)],  # noqa: S108
        "ports": [_port("http", TRITON_HTTP_PORT), _port("triton-metrics", TRITON_METRICS_PORT)],
        "resources": _resources(template.triton_resources, _accelerators(pool)),
        "startupProbe": {
            "httpGet": {"path": "/v2/health/ready", "port": "http"},
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": max(30, template.model_load_seconds // 2),
        },
        # Loading a model keeps Triton busy for long, but not from answering.
        "livenessProbe": {**probe, "periodSeconds": 10, "failureThreshold": 6},
    }


def _runner(pool: GPUPool, site: PodDefaults) -> Json:
    template = pool.spec.template
    options = {
        "pool": pool.metadata.name,
        "replica": "$(POD_NAME)",
        "pod-uid": "$(POD_UID)",
        "namespace": site.namespace,
        "model-repository": TEMPLATES,
        "repository": REPOSITORY,
        "health-port": HEALTH_PORT,
        "metrics-port": METRICS_PORT,
        "ready-seconds": template.model_load_seconds,
        "cut-off-seconds": site.cut_off_seconds,
        "drain-seconds": template.termination_grace_period_seconds - STOP_MARGIN_SECONDS,
        "memory-bytes": template.memory_bytes,
        "log-format": site.log_format,
    }
    container = _container("runner", template.runner_image or site.runner_image, "runnerImage", template)
    container["volumeMounts"].append({"name": "token", "mountPath": TOKENS, "readOnly": True})
    return {
        **container,
        "command": [PYTHON, "-m", "videojob.runner"],
        "args": [f"--{option}={value}" for option, value in options.items()],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - in the pod
            {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "POD_UID", "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},
        ],
        "ports": [_port("health", HEALTH_PORT), _port("metrics", METRICS_PORT)],
        "resources": _resources(template.runner_resources, {}),
        "startupProbe": {**_get("/livez"), "periodSeconds": 1, "timeoutSeconds": 5, "failureThreshold": 180},
        "readinessProbe": {**_get("/readyz"), "periodSeconds": 2, "timeoutSeconds": 5, "failureThreshold": 3},
        "livenessProbe": {**_get("/livez"), "periodSeconds": 10, "timeoutSeconds": 5, "failureThreshold": 6},
    }


def _container(name: str, image: str, field: str, template: PodTemplate) -> Json:
    if not image:
        raise NoImageError(
            f"There is no image for {name}: set spec.template.{field}, or the operator's --{name}-image."
        )
    return {
        "name": name,
        "image": image,
        "imagePullPolicy": template.image_pull_policy.value,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - where POSIX shared memory is
            {"name": "shared", "mountPath": SHARED},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108 - in the pod
            *template.volume_mounts,
        ],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def _accelerators(pool: GPUPool) -> dict[str, int]:
    resource = pool.spec.template.resource_name or (None if pool.spec.accelerator == CPU else GPU_RESOURCE)
    return {resource: pool.spec.accelerators_per_replica} if resource else {}


def _resources(given: Resources, accelerators: dict[str, int]) -> Json:
    return {
        # Kubernetes takes no accelerator that is requested and limited differently.
        "requests": {**given.requests, **accelerators},
        "limits": {**given.limits, **accelerators},
    }


def _get(path: str) -> Json:
    return {"httpGet": {"path": path, "port": "health"}}


def _port(name: str, number: int) -> Json:
    return {"name": name, "containerPort": number, "protocol": "TCP"}


def _token_sources() -> list[Json]:
    return [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": TOKEN_SECONDS}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {
            "downwardAPI": {
                "items": [{"path": "namespace", "fieldRef": {"fieldPath": "metadata.namespace"}}],
            }
        },
    ]
