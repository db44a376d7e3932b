"""Pods for tests, as a person would write them under restricted Pod Security."""

from typing import Any

IMAGE = "videojob.dev/local/videojob:dev"
TRITON_IMAGE = "videojob.dev/local/videojob-triton:dev"


def pod(name: str, namespace: str, *, image: str = IMAGE, **container: Any) -> dict[str, Any]:
    """A pod of one container, which may write to /tmp alone."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "fsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
                    **container,
                }
            ],
            "volumes": [{"name": "tmp", "emptyDir": {}}],
        },
    }


def with_empty_dir(made: dict[str, Any], name: str, path: str, **options: Any) -> dict[str, Any]:
    """The pod, with an empty folder mounted at a path."""
    made["spec"]["volumes"].append({"name": name, "emptyDir": options})
    made["spec"]["containers"][0]["volumeMounts"].append({"name": name, "mountPath": path})
    return made
