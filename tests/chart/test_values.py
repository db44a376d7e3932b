"""Which value changes what, and which are refused."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from dev.chart import CHART, helm, render
from dev.errors import DevError

OPERATOR = ("Deployment", "videojob-operator")
HOOK = ("Job", "videojob-uninstall")
POD = ("spec", "template", "spec")
CONTAINER = (*POD, "containers", 0)


def _find(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any] | None:
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) <= 1
    return found[0] if found else None


def _at(document: Any, path: tuple[str | int, ...]) -> Any:
    for step in path:
        document = document[step] if isinstance(step, int) else document.get(step)
        if document is None:
            return None
    return document


@pytest.mark.parametrize(
    ("settings", "kind", "name", "path", "value"),
    [
        ([], *OPERATOR, ("spec", "replicas"), 2),
        (["operator.replicas=1"], *OPERATOR, ("spec", "replicas"), 1),
        ([], *OPERATOR, (*CONTAINER, "image"), "videojob:0.1.0"),
        (["image.repository=r/v", "image.tag=x"], *OPERATOR, (*CONTAINER, "image"), "r/v:x"),
        (["image.tag=x"], *HOOK, (*CONTAINER, "image"), "videojob:x"),
        (
            [f"image.digest=sha256:{'a' * 64}", "image.tag=x"],
            *OPERATOR,
            (*CONTAINER, "image"),
            f"videojob@sha256:{'a' * 64}",
        ),
        (["image.pullPolicy=Always"], *OPERATOR, (*CONTAINER, "imagePullPolicy"), "Always"),
        ([], *OPERATOR, (*POD, "imagePullSecrets"), None),
        (["imagePullSecrets[0].name=r"], *OPERATOR, (*POD, "imagePullSecrets"), [{"name": "r"}]),
        (["imagePullSecrets[0].name=r"], *HOOK, (*POD, "imagePullSecrets"), [{"name": "r"}]),
        (["operator.resources.limits.memory=2Gi"], *OPERATOR, (*CONTAINER, "resources", "limits", "memory"), "2Gi"),
        (["operator.nodeSelector.a=b"], *OPERATOR, (*POD, "nodeSelector"), {"a": "b"}),
        (["operator.nodeSelector.a=b"], *HOOK, (*POD, "nodeSelector"), {"a": "b"}),
        (["operator.tolerations[0].operator=Exists"], *OPERATOR, (*POD, "tolerations"), [{"operator": "Exists"}]),
        (["operator.tolerations[0].operator=Exists"], *HOOK, (*POD, "tolerations"), [{"operator": "Exists"}]),
        (["operator.affinity.nodeAffinity.a=b"], *OPERATOR, (*POD, "affinity"), {"nodeAffinity": {"a": "b"}}),
        ([], *OPERATOR, (*POD, "topologySpreadConstraints", 0, "topologyKey"), "kubernetes.io/hostname"),
        (["operator.topologySpreadConstraints=null"], *OPERATOR, (*POD, "topologySpreadConstraints"), None),
        (["operator.priorityClassName=high"], *OPERATOR, (*POD, "priorityClassName"), "high"),
        (["operator.podAnnotations.a=b"], *OPERATOR, ("spec", "template", "metadata", "annotations", "a"), "b"),
        (["operator.podLabels.a=b"], *OPERATOR, ("spec", "template", "metadata", "labels", "a"), "b"),
        (["commonLabels.a=b"], *OPERATOR, ("spec", "template", "metadata", "labels", "a"), "b"),
        (["commonLabels.a=b"], *OPERATOR, ("spec", "selector", "matchLabels", "a"), None),
        (["operator.extraEnv[0].name=A"], *OPERATOR, (*CONTAINER, "env", 0, "name"), "A"),
        (["operator.extraEnv[0].name=A"], *HOOK, (*CONTAINER, "env", 0, "name"), "A"),
        (["operator.extraVolumes[0].name=v"], *OPERATOR, (*POD, "volumes", 1, "name"), "v"),
        (["operator.extraVolumes[0].name=v"], *HOOK, (*POD, "volumes", 1, "name"), "v"),
        (["operator.extraVolumeMounts[0].name=v"], *OPERATOR, (*CONTAINER, "volumeMounts", 1, "name"), "v"),
        (["operator.extraVolumeMounts[0].name=v"], *HOOK, (*CONTAINER, "volumeMounts", 1, "name"), "v"),
        (["operator.serviceAccount.name=x"], *OPERATOR, (*POD, "serviceAccountName"), "x"),
        (["operator.serviceAccount.name=x"], "ServiceAccount", "x", ("automountServiceAccountToken",), False),
        (["operator.serviceAccount.name=x"], "RoleBinding", "videojob-operator", ("subjects", 0, "name"), "x"),
        (["operator.serviceAccount.name=x"], "ClusterRoleBinding", "videojob-operator", ("subjects", 0, "name"), "x"),
        (["operator.serviceAccount.create=false"], "ServiceAccount", "videojob-operator", (), None),
        (["runner.serviceAccount.name=x"], "RoleBinding", "videojob-runner", ("subjects", 0, "name"), "x"),
        (["runner.serviceAccount.create=false"], "ServiceAccount", "videojob-runner", (), None),
        (
            ["runner.serviceAccount.annotations.a=b"],
            "ServiceAccount",
            "videojob-runner",
            ("metadata", "annotations"),
            {"a": "b"},
        ),
        ([], "PodDisruptionBudget", "videojob-operator", ("spec", "maxUnavailable"), 1),
        (["operator.podDisruptionBudget.enabled=false"], "PodDisruptionBudget", "videojob-operator", (), None),
        (
            [],
            "CustomResourceDefinition",
            "gpupools.videojob.dev",
            ("metadata", "annotations"),
            {"helm.sh/resource-policy": "keep"},
        ),
        (["crds.keep=false"], "CustomResourceDefinition", "gpupools.videojob.dev", ("metadata", "annotations"), None),
        (["crds.install=false"], "CustomResourceDefinition", "gpupools.videojob.dev", (), None),
        (["namespaced.enabled=true"], "CustomResourceDefinition", "gpupools.videojob.dev", (), None),
        (
            [],
            "ClusterRole",
            "videojob-viewer",
            ("metadata", "labels", "rbac.authorization.k8s.io/aggregate-to-view"),
            "true",
        ),
        (
            [],
            "ClusterRole",
            "videojob-editor",
            ("metadata", "labels", "rbac.authorization.k8s.io/aggregate-to-edit"),
            "true",
        ),
        (["rbac.aggregate=false"], "ClusterRole", "videojob-viewer", (), None),
        (["rbac.aggregate=false"], "ClusterRole", "videojob-editor", (), None),
        ([], "NetworkPolicy", "videojob-operator", ("spec", "ingress"), [{"ports": [{"port": "metrics"}]}]),
        (
            [],
            "NetworkPolicy",
            "videojob-pools",
            ("spec", "ingress"),
            [{"ports": [{"port": 9090}, {"port": 8002}]}, {"ports": [{"port": 8080}]}],
        ),
        (
            ["networkPolicy.metricsFrom[0].podSelector.a=b"],
            "NetworkPolicy",
            "videojob-pools",
            ("spec", "ingress", 0, "from"),
            [{"podSelector": {"a": "b"}}],
        ),
        (["networkPolicy.enabled=false"], "NetworkPolicy", "videojob-operator", (), None),
        (["networkPolicy.enabled=false"], "NetworkPolicy", "videojob-pools", (), None),
        ([], "Service", "videojob-operator-metrics", ("spec", "ports", 0, "port"), 9090),
        ([], "ServiceMonitor", "videojob-operator", (), None),
        (
            ["metrics.serviceMonitor.enabled=true", "metrics.interval=30s"],
            "ServiceMonitor",
            "videojob-operator",
            ("spec", "endpoints", 0, "interval"),
            "30s",
        ),
        ([], "PodMonitor", "videojob-pools", (), None),
        (
            ["metrics.podMonitor.enabled=true", "metrics.labels.release=p"],
            "PodMonitor",
            "videojob-pools",
            ("metadata", "labels", "release"),
            "p",
        ),
        (["defaultQueue.namespaces={a}"], "VideoQueue", "default", ("metadata", "namespace"), "a"),
        ([], "VideoQueue", "default", (), None),
        (
            ["models.m.memory.weightsBytes=28000000000"],
            "VideoModel",
            "m",
            ("spec", "memory", "weightsBytes"),
            28 * 10**9,
        ),
        (["pools.p.accelerator=cpu"], "GPUPool", "p", ("spec",), {"accelerator": "cpu"}),
        (
            ["pools.p.accelerator=cpu"],
            "GPUPool",
            "p",
            ("metadata", "annotations", "helm.sh/resource-policy"),
            "keep",
        ),
        ([], *HOOK, ("metadata", "annotations", "helm.sh/hook"), "pre-delete"),
        (["uninstall.timeoutSeconds=150"], *HOOK, ("spec", "activeDeadlineSeconds"), 150),
        (["uninstall.timeoutSeconds=150"], *HOOK, (*CONTAINER, "args", 2), "--patience-seconds=60"),
        (["uninstall.enabled=false"], *HOOK, (), None),
        (["uninstall.enabled=false"], "ServiceAccount", "videojob-uninstall", (), None),
        (["uninstall.enabled=false"], "ClusterRole", "videojob-uninstall", (), None),
    ],
)
def test_value(settings: list[str], kind: str, name: str, path: tuple[str | int, ...], value: object) -> None:
    rendered = _find(render(*(f"--set={setting}" for setting in settings)), kind, name)
    assert _at(rendered, path) == value


@pytest.mark.parametrize(
    ("settings", "argument", "given"),
    [
        ([], "--namespace=videojob-system", True),
        ([], "--watch-namespace=videojob-system", False),
        (["namespaced.enabled=true"], "--watch-namespace=videojob-system", True),
        ([], "--log-format=json", True),
        (["logFormat=text"], "--log-format=text", True),
        (["userIDs=Namespace"], "--pod-user-ids=Namespace", True),
        ([], "--pod-user-ids=Fixed", True),
        ([], "--triton-image=videojob-triton:0.1.0", True),
        (["triton.image.repository=t", "triton.image.tag=v1"], "--triton-image=t:v1", True),
        (["image.tag=v1"], "--runner-image=videojob:v1", True),
        (["runner.serviceAccount.name=x"], "--runner-service-account=x", True),
        ([], "--runner-cut-off-seconds=1800", True),
        (["runner.cutOffSeconds=60"], "--runner-cut-off-seconds=60", True),
        (["imagePullSecrets[0].name=r,imagePullSecrets[1].name=s"], "--image-pull-secret=r", True),
        (["imagePullSecrets[0].name=r,imagePullSecrets[1].name=s"], "--image-pull-secret=s", True),
        (["operator.bindAddress=::"], "--bind-address=::", True),
    ],
)
def test_argument_of_the_operator(settings: list[str], argument: str, given: bool) -> None:
    rendered = _find(render(*(f"--set={setting}" for setting in settings)), *OPERATOR)
    assert (argument in _at(rendered, (*CONTAINER, "args"))) == given


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["namespaced.enabled=true", "imagePullSecrets[0].name=r"],
        ["userIDs=Namespace", "operator.bindAddress=::"],
    ],
)
@pytest.mark.parametrize(
    ("kind", "name", "module"),
    [(*OPERATOR, "videojob.controller"), (*HOOK, "videojob.controller.uninstall")],
)
def test_programs_accept_their_arguments(settings: list[str], kind: str, name: str, module: str) -> None:
    """`--help` as the last argument ends a program that accepts the others before it does anything."""
    rendered = _find(render(*(f"--set={setting}" for setting in settings)), kind, name)
    arguments = _at(rendered, (*CONTAINER, "args"))
    assert _at(rendered, (*CONTAINER, "command")) == ["/opt/videojob/bin/python", "-m", module]
    command = (sys.executable, "-m", module, *arguments, "--help")
    known = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert [each for each in arguments if each.partition("=")[0] not in known] == []


@pytest.mark.parametrize(("setting", "named"), [("userIDs=Fixed", True), ("userIDs=Namespace", False)])
def test_users_of_pods_are_named_or_left_to_the_cluster(setting: str, named: bool) -> None:
    pods = [
        each["spec"]["template"]["spec"] for each in render("--set", setting) if each["kind"] in ("Deployment", "Job")
    ]
    assert len(pods) == 2
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"] is True
        for field in ("runAsUser", "runAsGroup", "fsGroup"):
            assert (field in pod["securityContext"]) is named


def test_names_that_look_like_numbers_stay_names() -> None:
    """Kubernetes allows them, and YAML would read them as numbers."""
    number = "4090"
    switches = (
        *("--values", str(CHART / "ci" / "everything-values.yaml")),
        f"--set=pools.{number}.accelerator=cpu,models.{number}.family=AnyFlowFAR",
        f"--set-string=defaultQueue.namespaces={{{number}}}",
        *(f"--set-string={account}.serviceAccount.name={number}" for account in ("operator", "runner")),
        f"--set-string=operator.priorityClassName={number},imagePullSecrets[0].name={number}",
    )
    for settings in (switches, (*switches, "--set=namespaced.enabled=true,namespaced.createClusterRoleBindings=true")):
        rendered = render(*settings, namespace=number)
        assert _find(rendered, "GPUPool", number)
        assert _find(rendered, "VideoModel", number)
        assert _at(_find(rendered, "VideoQueue", "default"), ("metadata", "namespace")) == number
        for each in rendered:
            assert [number for number in _scalars(each, "metadata", "subjects") if not isinstance(number, str)] == []
        assert _at(_find(rendered, *OPERATOR), (*POD, "serviceAccountName")) == number
        assert _at(_find(rendered, *OPERATOR), (*POD, "priorityClassName")) == number
        assert _at(_find(rendered, *OPERATOR), (*POD, "imagePullSecrets")) == [{"name": number}]


def _scalars(document: dict[str, Any], *parts: str) -> Iterator[object]:
    """All scalars in those parts of an object, however deep."""
    left: list[object] = [document.get(part) for part in parts]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            left += [*value, *value.values()]
        elif isinstance(value, list):
            left += value
        elif value is not None:
            yield value


def test_every_alert_and_dashboard_is_installed() -> None:
    rendered = render("--set=prometheusRule.enabled=true,dashboards.enabled=true")
    own = 'namespace="videojob-system"'
    alerts = {
        path.stem: yaml.safe_load(path.read_text().replace('namespace=~".*"', own))
        for path in CHART.glob("alerts/*.yaml")
    }
    dashboards = {path.name: json.loads(path.read_text()) for path in CHART.glob("dashboards/*.json")}
    assert own in json.dumps(alerts).replace('\\"', '"')
    assert dashboards
    for name, rules in alerts.items():
        rule = _find(rendered, "PrometheusRule", "videojob" if name == "videojob" else f"videojob-{name}")
        assert _at(rule, ("spec",)) == rules
    for name, dashboard in dashboards.items():
        found = _find(rendered, "ConfigMap", f"videojob-dashboard-{name.removesuffix('.json')}")
        assert _at(found, ("metadata", "labels", "grafana_dashboard")) == "1"
        assert json.loads(_at(found, ("data", name))) == dashboard


def test_alerts_and_dashboards_link_to_where_the_runbooks_can_be_read() -> None:
    base = "https://git.example/videojob/main"
    switches = "--set=prometheusRule.enabled=true,dashboards.enabled=true"
    rendered = json.dumps(render(switches, f"--set=monitoring.runbookBaseUrl={base}/"))
    linked = re.findall(r"[^\s\"\\\\(]*docs/runbooks", rendered)
    assert len(linked) > 10
    assert set(linked) == {f"{base}/docs/runbooks"}


def test_labels_are_on_everything_but_what_pods_are_selected_by() -> None:
    for rendered in render("--values", str(CHART / "ci" / "everything-values.yaml")):
        assert rendered["metadata"]["labels"]["team"] == "video", rendered["kind"]


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        ("operator.replica=1", "at '/operator': additional properties 'replica' not allowed"),
        ("imgae.tag=1", "additional properties 'imgae' not allowed"),
        ("operator.replicas=0", "at '/operator/replicas': minimum: got 0, want 1"),
        ("operator.replicas=two", "at '/operator/replicas': got string, want integer"),
        ("logFormat=xml", "at '/logFormat': value must be one of 'json', 'text'"),
        ("runner.cutOffSeconds=90000", "at '/runner/cutOffSeconds': maximum: got 90,000, want 86,400"),
        ("userIDs=Root", "at '/userIDs': value must be one of 'Fixed', 'Namespace'"),
        ("image.pullPolicy=Sometimes", "at '/image/pullPolicy': value must be one of"),
        ("image.digest=latest", "at '/image/digest': 'latest' does not match pattern"),
        ("image.repository=", "at '/image/repository'"),
        ("commonLabels.helm\\.sh/chart=x", "at '/commonLabels/helm.sh~1chart'"),
        ("metrics.interval=15", "at '/metrics/interval'"),
        ("uninstall.timeoutSeconds=1", "at '/uninstall/timeoutSeconds': minimum: got 1, want 120"),
        ("pools.Big.accelerator=cpu", "at '/pools': additional properties 'Big' not allowed"),
        ("models.m=1", "at '/models/m': got number, want object"),
        ("operator.serviceAccount.name=A_b", "at '/operator/serviceAccount/name'"),
    ],
)
def test_bad_value_is_refused(setting: str, sentence: str) -> None:
    with pytest.raises(DevError) as refused:
        render(f"--set={setting}")
    assert sentence in str(refused.value)


def test_queue_of_another_namespace_is_refused_in_namespaced_mode() -> None:
    with pytest.raises(DevError, match=r"the queue can only be made in team-a, not in default"):
        render("--set=namespaced.enabled=true,defaultQueue.namespaces={default}", namespace="team-a")


def test_schema_has_every_value_and_no_other() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())

    def compare(where: str, part: dict[str, Any], default: object) -> None:
        if "$ref" in part:
            part = _at(schema, tuple(part["$ref"].split("/")[1:]))
        if "properties" not in part or "patternProperties" in part:
            return
        assert part["additionalProperties"] is False, where
        assert isinstance(default, dict)
        assert part["properties"].keys() - {"global", "claims"} == default.keys(), where
        for key, value in default.items():
            compare(f"{where}/{key}", part["properties"][key], value)

    compare("", schema, values)


@pytest.mark.parametrize("values", ["everything", "namespaced"])
def test_lint_finds_nothing(values: str) -> None:
    helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{values}-values.yaml"))
