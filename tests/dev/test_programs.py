"""Where the programs of the local cluster come from."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dev import programs
from dev.errors import DevError
from dev.programs import GROUPS, from_assets, group_of, program


def executable(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("name", "group"),
    [("kube-apiserver", "kubernetes"), ("kubectl", "kubernetes"), ("etcd", "etcd"), ("versitygw", "versitygw")],
)
def test_group_of(name: str, group: str) -> None:
    assert group_of(name).name == group


def test_an_unknown_program_is_refused_with_a_list_of_the_known_ones() -> None:
    with pytest.raises(DevError, match="No program is called kubectx; there are kube-apiserver, kubectl, etcd"):
        group_of("kubectx")


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        pytest.param({}, None, id="not set"),
        pytest.param({"KUBEBUILDER_ASSETS": ""}, None, id="empty"),
        pytest.param({"KUBEBUILDER_ASSETS": "{folder}/none"}, None, id="no such folder"),
        pytest.param({"KUBEBUILDER_ASSETS": "{folder}/assets"}, "assets/kubectl", id="holds it"),
        pytest.param({"KUBEBUILDER_ASSETS": "{folder}/text"}, None, id="holds a file that is no program"),
    ],
)
def test_from_assets(environment: dict[str, str], found: str | None, tmp_path: Path) -> None:
    executable(tmp_path / "assets" / "kubectl")
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "kubectl").touch()
    given = {name: value.format(folder=tmp_path) for name, value in environment.items()}
    assert from_assets("kubectl", given) == (found and tmp_path / found)


def test_assets_come_before_the_cache_for_programs_that_they_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    given = executable(tmp_path / "assets" / "kubectl")
    built = executable(tmp_path / f"kubernetes-{programs.fingerprint(group_of('kubectl'))}" / "kube-apiserver")
    assert program("kubectl", cache=tmp_path) == given
    assert program("kube-apiserver", cache=tmp_path) == built


def test_a_failed_build_names_its_log_and_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    go = executable(tmp_path / "bin" / "go")
    go.write_text("#!/bin/sh\necho 'no space left on device' >&2\nexit 1\n")
    monkeypatch.setenv("PATH", f"{go.parent}:{os.environ['PATH']}")
    cache = tmp_path / "cache"
    with pytest.raises(DevError, match=rf"Building etcd failed: no space left on device .*{re.escape(str(cache))}"):
        program("etcd", cache=cache)
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.name)
def test_every_group_is_pinned(group: programs.Group) -> None:
    folder = programs.MODULES / group.name
    module = (folder / "go.mod").read_text()
    assert "\ntool" in module
    assert ((folder / "go.sum").stat().st_size > 0) == ("\nrequire" in module)


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_a_change_of_a_groups_inputs_is_another_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    group = group_of("pause")
    shutil.copytree(programs.MODULES / group.name, tmp_path / group.name)
    before = programs.fingerprint(group)
    monkeypatch.setattr(programs, "MODULES", tmp_path)
    assert programs.fingerprint(group) == before
    with (tmp_path / group.name / name).open("a") as file:
        file.write("// changed\n")
    assert programs.fingerprint(group) != before


def test_kubectl_has_the_version_that_go_mod_pins() -> None:
    pinned = re.search(r"k8s\.io/kubernetes (v\S+)", (programs.MODULES / "kubernetes" / "go.mod").read_text())
    assert pinned is not None
    printed = subprocess.run((program("kubectl"), "version", "--client"), capture_output=True, text=True, check=True)
    if "KUBEBUILDER_ASSETS" not in os.environ:
        assert f"Client Version: {pinned[1]}\n" in printed.stdout
