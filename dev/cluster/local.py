"""`make cluster` and `make cluster-down`: the cluster with real pods, and videojob in it, installed by its chart."""

from contextlib import suppress
from pathlib import Path

from dev.cluster import cluster as clusters
from dev.cluster.cluster import RealCluster
from dev.control_plane import NAMESPACE
from dev.errors import DevError
from dev.local import LOCAL, MODEL, Report, make_model
from dev.programs import program
from dev.supervisor import REPOSITORY

FOLDER = LOCAL / "pods"
CHART = REPOSITORY / "charts" / "videojob"
VALUES = Path(__file__).parent / "values.yaml"
RELEASE = "videojob"


def up(report: Report) -> str:
    """Start the cluster, install videojob in it and leave both running; do nothing where it is up.

    Returns what a person can do with it.

    Raises:
        DevError: this machine cannot, or it did not get ready and is stopped again.
    """
    running = clusters.connect(FOLDER)
    if running is not None:
        try:
            running.kubectl("wait", "--for=condition=Ready", f"node/{clusters.NODE}", "--timeout=30s")
        except DevError as failure:
            report(f"It is up, but not well, and is started anew. {failure}")
        else:
            install(running, report)
            return f"It is already up.\n{_next_steps()}"
    make_model(report)
    supervisor, real = clusters.start(FOLDER, MODEL.parent, report)
    try:
        install(real, report)
    except BaseException:
        report("Stopping ...")
        clusters.stop(FOLDER)
        raise
    supervisor.detach()
    return f"It is up.\n{_next_steps()}"


def down() -> str:
    """Stop the cluster, or what is left of a killed one, and remove its state; returns a sentence for a person."""
    return "Stopped." if clusters.stop(FOLDER) else "Nothing is running."


def install(real: RealCluster, report: Report, *options: str) -> None:
    """Install the chart, or upgrade to it, with the values of this folder; when the operator is ready, make the pool.

    Raises:
        DevError: helm failed; where the operator is the reason, with the last that it wrote.
    """
    report("Installing the chart ...")
    try:
        real.helm(
            *("upgrade", "--install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--values", str(VALUES)),
            *("--wait", "--timeout", "3m", *options),
        )
    except DevError as failure:
        written = ""
        with suppress(DevError):
            written = real.logs("deployment/videojob-operator", NAMESPACE, "--tail=5")
        raise DevError(f"{failure}\n{written}".strip()) from failure
    real.apply_manifest("pool")


def _next_steps() -> str:
    return f"""
    export PATH="{program("kubectl").parent}:{program("helm").parent}:$PATH"
    export KUBECONFIG={FOLDER / "kubeconfig"}
    kubectl apply -f manifests/samples/one-shot.yaml
    kubectl get videojobs,gpupools
    kubectl get pods -n {NAMESPACE} -w

Logs: {FOLDER / "log"}   Stop with: make cluster-down"""
