"""What is generated for and from the chart is what is committed."""

from typing import Any

import yaml

import videojob
from dev import chart
from dev.control_plane import MANIFESTS, NAMESPACE
from dev.programs import program
from tests.chart.conftest import DryRun

AGAIN = "run `make generate` and commit the result"


def test_the_chart_holds_the_crds_of_the_repository() -> None:
    assert {path.name: path.read_text() for path in chart.CRDS.iterdir()} == chart.crds(), AGAIN


def test_readme_documents_every_value() -> None:
    assert chart.README.read_text() == chart.readme(), AGAIN
    rows = [line.strip("|").split("|") for line in chart.readme().split("## Values")[1].splitlines() if "`" in line]
    assert len(rows) > 40
    assert [row[0] for row in rows if not row[-1].strip()] == [], "every value needs a `# --` comment"


def test_install_manifest_is_what_the_chart_renders() -> None:
    assert chart.INSTALL.read_text() == chart.install(), AGAIN


def test_roles_of_a_cluster_without_the_chart_are_those_of_the_chart() -> None:
    assert {path.name: path.read_text() for path in chart.RBAC.iterdir()} == chart.rbac(), AGAIN


def test_install_manifest_can_be_applied(dry_run: DryRun) -> None:
    objects = list(yaml.safe_load_all(chart.INSTALL.read_text()))
    dry_run(objects)
    assert objects[0]["kind"] == "Namespace"
    assert objects[0]["metadata"]["labels"] == {"pod-security.kubernetes.io/enforce": "restricted"}
    assert {"Job"}.isdisjoint(each["kind"] for each in objects), "hooks run by themselves only in Helm"
    assert {each["metadata"].get("namespace", NAMESPACE) for each in objects} == {NAMESPACE}
    assert "helm" not in chart.INSTALL.read_text().lower().replace("without helm", "")


def test_install_manifest_is_a_kustomize_base() -> None:
    built = yaml.safe_load_all(chart.output(str(program("kubectl")), "kustomize", str(MANIFESTS)))
    assert _by_name(built) == _by_name(yaml.safe_load_all(chart.INSTALL.read_text()))


def test_chart_and_code_have_one_version() -> None:
    described = yaml.safe_load((chart.CHART / "Chart.yaml").read_text())
    assert described["version"] == described["appVersion"] == videojob.__version__


def _by_name(objects: Any) -> dict[tuple[str, str], Any]:
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}
