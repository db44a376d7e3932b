"""CRDs of others: files of their Go modules, as go.mod and go.sum beside this pin them, in the module cache of Go."""

import json
import os
import subprocess
from pathlib import Path

from dev.errors import DevError
from dev.programs import go

_PINS = Path(__file__).parent
_DOWNLOAD_SECONDS = 300

_KEDA = "github.com/kedacore/keda/v2"
_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator"
FILES = {
    "ScaledObject": (_KEDA, "config/crd/bases/keda.sh_scaledobjects.yaml"),
    **{
        kind: (_PROMETHEUS_OPERATOR, f"example/prometheus-operator-crd/monitoring.coreos.com_{kind.lower()}s.yaml")
        for kind in ("PodMonitor", "PrometheusRule", "ServiceMonitor")
    },
}
"""Module and file of each kind."""


def foreign_crd(kind: str) -> Path:
    """The file with the CRD of that kind, downloaded if this is the first time.

    Raises:
        DevError: it cannot be downloaded, or is not the one that go.sum pins.
    """
    module, file = FILES[kind]
    pins = (_PINS / "go.mod").read_text().split()
    version = pins[pins.index(module) + 1]
    environment = {**os.environ, "GOTOOLCHAIN": "local", "GOWORK": "off"}
    try:
        result = subprocess.run(
            (go(), "mod", "download", "-json", f"{module}@{version}"),
            cwd=_PINS,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DevError(f"Downloading {module} took more than {_DOWNLOAD_SECONDS} s.") from error
    answer = json.loads(result.stdout or "{}")
    if result.returncode != 0 or "Dir" not in answer:
        raise DevError(f"{module} {version} cannot be had: {answer.get('Error') or result.stderr.strip()}")
    if f"{module} {version} {answer['Sum']}\n" not in (_PINS / "go.sum").read_text():
        raise DevError(f"{module} {version} is not what dev/crds/go.sum pins.")
    return Path(answer["Dir"], file)
