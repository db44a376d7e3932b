"""An API server that is away."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from dev.control_plane import Cluster, wait_until

PATIENCE = 180.0
"""Seconds after which a condition that a test waits for counts as never coming."""


class ApiServerFaults:
    """What a test can do to the API server of a cluster."""

    cluster: Cluster

    @contextmanager
    def silent_api_server(self) -> Iterator[None]:
        """The API server answers nobody."""
        pid = int((self.cluster.kubeconfig.parent / "run" / "kube-apiserver.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def refusing_api_server(self) -> Iterator[None]:
        """The API server was killed, and the next one does not listen yet: connections are refused."""
        pid_file = self.cluster.kubeconfig.parent / "run" / "kube-apiserver.pid"
        old = int(pid_file.read_text())
        os.kill(old, signal.SIGKILL)
        deadline = time.monotonic() + PATIENCE
        while (pid := int(pid_file.read_text())) == old:
            assert time.monotonic() < deadline, "the API server is not started again"
            time.sleep(0.01)
        os.kill(pid, signal.SIGSTOP)  # It takes seconds to listen.
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)
            ready = ("get", "--raw", "/readyz")
            wait_until(lambda: self.cluster.kubectl(*ready) == "ok", "The API server does not come back", PATIENCE)
