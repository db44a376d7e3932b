"""The whole system on one machine: cluster, operator, Triton and runner, with the sample objects in it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from dev import control_plane as clusters
from dev import supervisor as supervisors
from dev.control_plane import MANIFESTS, NAMESPACE, Cluster, free_ports, wait_until
from dev.errors import DevError
from dev.programs import program
from dev.supervisor import REPOSITORY, Process, Supervisor, crash_loop

LOCAL = REPOSITORY / ".local"
MODEL = LOCAL / "models" / "tiny-anyflow"
READY_SECONDS = 120
RECOVERY_SECONDS = 30
"""How long a system that is up, but not ready, may take to recover by itself before `up` starts it anew."""
MODEL_SECONDS = 300

SERVICES = ("triton-0", "operator", "runner-0")
LOOPBACK = "127.0.0.1"

Report = Callable[[str], None]
"""Called with a short message for every step."""


def up(report: Report) -> str:
    """Start the system and leave it running; repair it where it is half up; do nothing where it is up.

    Returns what a person can do with it.

    Raises:
        DevError: it did not get ready, and is stopped again.
    """
    running = connect(LOCAL)
    if running is not None:
        try:
            _wait_for_pool(running, LOCAL, RECOVERY_SECONDS)
        except DevError as failure:
            report(f"It is up, but not ready, and is started anew. {failure}")
        else:
            return f"It is already up.\n{_next_steps()}"
    supervisors.stop(LOCAL)
    supervisor, _ = start(LOCAL, report)
    supervisor.detach()
    return f"It is up.\n{_next_steps()}"


def down() -> str:
    """Stop the system, or what is left of one whose supervisor was killed; returns a sentence for a person."""
    return "Stopped." if supervisors.stop(LOCAL) else "Nothing is running."


def connect(folder: Path) -> Cluster | None:
    """The cluster of the system that runs in the folder, if one does."""
    if not supervisors.is_running(folder):
        return None
    return Cluster(folder / "cluster", folder / "kubeconfig")


def start(folder: Path, report: Report) -> tuple[Supervisor, Cluster]:
    """Start everything in the folder and return when the pool is ready.

    Raises:
        DevError: it does not get ready. Whatever ends this early, nothing is left running.
    """
    make_model(report)
    supervisor = Supervisor(folder)
    try:
        return supervisor, _start(supervisor, report)
    except BaseException:
        report("Stopping ...")
        supervisor.stop()
        raise


def _start(supervisor: Supervisor, report: Report) -> Cluster:
    folder = supervisor.folder
    triton_grpc, triton_http, triton_metrics, operator_health, operator_metrics, runner_metrics = free_ports(6)
    repository = folder / "triton"
    repository.mkdir(exist_ok=True)
    given = os.environ.get("VIDEOJOB_KUBECONFIG")

    supervisor.run(
        _python(
            "triton-0",
            "dev.tritonserver",
            {
                "repository": repository,
                "grpc-port": triton_grpc,
                "http-port": triton_http,
                "metrics-port": triton_metrics,
            },
        )
    )
    if given:
        report(f"Using the cluster of {given} ...")
        cluster = clusters.existing(Path(given), folder)
    else:
        report("Starting etcd and kube-apiserver ...")
        cluster = clusters.start(supervisor)
    report("Applying CRDs, roles, queue, model and pool ...")
    cluster.install()
    cluster.apply(*samples(MODEL, f"127.0.0.1:{triton_grpc}", folder / "store"))
    # By what etcd kept from the last time, the pool is ready.
    cluster.kubectl("patch", "gpupool", "local", "--subresource=status", "--type=merge", "--patch", '{"status": null}')

    report("Starting operator and runner ...")
    supervisor.run(
        _python(
            "operator",
            "videojob.controller",
            {
                "namespace": NAMESPACE,
                "bind-address": LOOPBACK,
                "health-port": operator_health,
                "metrics-port": operator_metrics,
            },
            cluster.service_account("videojob-operator"),
        )
    )
    supervisor.run(
        _python(
            "runner-0",
            "videojob.runner",
            {
                "pool": "local",
                "replica": "replica-0",
                "namespace": NAMESPACE,
                "model-repository": REPOSITORY / "model_repo",
                "repository": repository,
                "bind-address": LOOPBACK,
                "metrics-port": runner_metrics,
            },
            cluster.service_account("videojob-runner"),
        )
    )
    report("Waiting until the replica has loaded the model ...")
    _wait_for_pool(cluster, folder, READY_SECONDS)
    return cluster


def samples(model: Path, triton: str, store: Path) -> list[dict[str, Any]]:
    """The sample queue, model and pool with this machine's paths and ports in them."""
    queue, videomodel, pool = (
        yaml.safe_load((MANIFESTS / "samples" / f"{name}.yaml").read_text())
        for name in ("videoqueue", "videomodel", "gpupool")
    )
    queue["metadata"]["namespace"] = "default"
    videomodel["spec"]["source"]["directory"] = str(model)
    pool["spec"]["endpoints"][0]["url"] = triton
    pool["spec"]["store"]["url"] = store.as_uri()
    return [queue, videomodel, pool]


def _wait_for_pool(cluster: Cluster, folder: Path, seconds: float) -> None:
    condition = '.status.conditions[?(@.type=="Ready")]'
    columns = f"jsonpath={{{condition}.status}} {{{condition}.message}}"

    def ready() -> bool:
        status, _, message = cluster.kubectl("get", "gpupool", "local", "-o", columns).partition(" ")
        if status != "True":
            raise DevError(message or "the operator has not looked at it yet")
        return True

    names = ("etcd", "kube-apiserver", *SERVICES)
    wait_until(ready, "The pool is not ready", seconds, lambda: crash_loop(folder, names))


def make_model(report: Report) -> None:
    """Write the tiny model, unless the one that is there was written by the same script."""
    stamp = MODEL.with_suffix(".made-by")
    script = hashlib.sha256((REPOSITORY / "dev" / "tiny_model.py").read_bytes()).hexdigest()
    if stamp.is_file() and stamp.read_text() == script:
        return
    report("Making the tiny model ...")
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    log = MODEL.with_suffix(".log")
    command = (sys.executable, "-m", "dev.tiny_model", str(MODEL))
    try:
        with log.open("wb") as output:
            subprocess.run(
                command,
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=MODEL_SECONDS,
                check=True,
            )
    except subprocess.SubprocessError as error:
        raise DevError(f"The tiny model could not be made; see {log}.") from error
    stamp.write_text(script)


def _python(name: str, module: str, options: dict[str, Any], kubeconfig: Path | None = None) -> Process:
    flags = (f"--{option}={value}" for option, value in options.items())
    return Process(name, (sys.executable, "-m", module, *flags), {"KUBECONFIG": str(kubeconfig)} if kubeconfig else {})


def _next_steps() -> str:
    return f"""
    export PATH="{program("kubectl").parent}:$PATH"
    export KUBECONFIG={LOCAL / "kubeconfig"}
    kubectl apply -f manifests/samples/one-shot.yaml
    kubectl get videojobs -w

Videos: {LOCAL / "store"}   Logs: {LOCAL / "log"}   Stop with: make down"""
