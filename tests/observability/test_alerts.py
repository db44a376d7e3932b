"""Alerts fire when somebody has to act, and only then; each has a runbook."""

import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from dev.chart import render
from dev.programs import program
from tests.observability.exported import exported, named

REPOSITORY = Path(__file__).parents[2]
RULES = REPOSITORY / "charts" / "videojob" / "alerts" / "videojob.yaml"
CASES = sorted(Path(__file__).with_name("alerts").glob("*.test.yaml"))
LEADERS = Path(__file__).with_name("alerts") / "leaders.test.yaml"
RUNBOOKS = REPOSITORY / "docs" / "runbooks"


def rules() -> list[dict[str, Any]]:
    """Every rule of the file."""
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    """Every alert of the file."""
    return [rule for rule in rules() if "alert" in rule]


def promtool_tests(files: Iterable[Path]) -> Iterator[dict[str, Any]]:
    """Every test of promtool in the files."""
    for file in files:
        yield from yaml.safe_load(file.read_text())["tests"]


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        (str(program("promtool")), *arguments), capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rules_are_valid() -> None:
    promtool("check", "rules", "--lint=all", "--lint-fatal", str(RULES))


@pytest.mark.parametrize("cases", CASES, ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_not_when_they_should_not(cases: Path) -> None:
    promtool("test", "rules", str(cases))


def test_every_alert_is_tested_with_a_change_of_leader_within_its_for() -> None:
    """It fires before it could, had the change set its `for` back to nothing."""
    times = {alert["alert"]: _minutes(alert.get("for", "0m")) for alert in alerts()}
    tried = set()
    for test in promtool_tests([LEADERS]):
        change = _change_of_leader(test)
        names = {case["alertname"] for case in test["alert_rule_test"]}
        assert len(names) == 1, test["name"]
        (name,) = names
        (quiet, *_), (fires, *_) = (
            [_minutes(case["eval_time"]) for case in test["alert_rule_test"] if bool(case["exp_alerts"]) == firing]
            for firing in (False, True)
        )
        if times[name]:
            assert quiet < fires < change + times[name], test["name"]
        tried.add(name)
    assert tried == times.keys()


def _minutes(duration: str) -> int:
    assert re.fullmatch(r"\d+m", duration), duration
    return int(duration.removesuffix("m"))


def _change_of_leader(test: dict[str, Any]) -> int:
    """The minute in which an operator first leads that did not before."""
    leaders = [each for each in test["input_series"] if each["series"].startswith("videojob_operator_leader")]
    assert len(leaders) > 1, test["name"]
    (first,) = (re.match(r"0x(\d+) 1x", each["values"]) for each in leaders if each["values"].startswith("0"))
    assert first is not None, test["name"]
    return int(first[1]) + 1


def test_the_rule_of_a_release_misses_its_own_operator_whichever_other_leads(tmp_path: Path) -> None:
    (rule,) = (
        each
        for each in render("--set=prometheusRule.enabled=true", namespace="team-a")
        if each["kind"] == "PrometheusRule"
    )
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump(rule["spec"]))
    (alert,) = (alert for alert in alerts() if alert["alert"] == "VideojobOperatorLoopStale")

    def fires(minutes: int, namespace: str | None) -> dict[str, Any]:
        labels = {"severity": "critical", "namespace": namespace}
        expected = [{"exp_labels": labels, "exp_annotations": alert["annotations"]}] if namespace else []
        return {"eval_time": f"{minutes}m", "alertname": alert["alert"], "exp_alerts": expected}

    test = {
        "interval": "1m",
        "input_series": [
            {"series": 'videojob_operator_leader{instance="a",namespace="team-a"}', "values": "1x30 stale"},
            {"series": 'videojob_operator_leader{instance="b",namespace="team-b"}', "values": "1x10 0x90"},
        ],
        "alert_rule_test": [fires(25, None), fires(35, "team-a")],
    }
    (tmp_path / "test.yaml").write_text(yaml.safe_dump({"rule_files": ["rules.yaml"], "tests": [test]}))
    promtool("test", "rules", str(tmp_path / "test.yaml"))


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    tried = [
        (case["alertname"], bool(case["exp_alerts"]))
        for test in promtool_tests(CASES)
        for case in test["alert_rule_test"]
    ]
    severities = {
        (case["alertname"], expected["exp_labels"]["severity"])
        for test in promtool_tests(CASES)
        for case in test["alert_rule_test"]
        for expected in case["exp_alerts"]
    }

    names = {alert["alert"] for alert in alerts()}
    assert {name for name, fires in tried if fires} == names
    assert {name for name, fires in tried if not fires} == names
    assert severities == {(alert["alert"], alert["labels"]["severity"]) for alert in alerts()}


def test_every_metric_is_exported() -> None:
    missing = {name for rule in rules() for name in named(rule["expr"])} - exported()

    assert not missing


def test_every_alert_has_a_summary_a_description_and_a_runbook() -> None:
    for alert in alerts():
        annotations = alert["annotations"]
        assert annotations.keys() == {"summary", "description", "runbook_url"}
        assert alert["labels"].keys() == {"severity"} and alert["labels"]["severity"] in ("critical", "warning")
        # The chart puts the repository's address before it.
        assert annotations["runbook_url"] == f"docs/runbooks/{alert['alert']}.md"
        runbook = (REPOSITORY / annotations["runbook_url"]).read_text()
        assert runbook.startswith(f"# {alert['alert']}\n")
        for part in ("## Diagnosis", "## Causes", "## False alarm", "```"):
            assert part in runbook, (alert["alert"], part)


def test_there_is_no_runbook_without_an_alert_and_every_one_is_in_both_tables() -> None:
    names = {alert["alert"] for alert in alerts()}

    assert {path.stem for path in RUNBOOKS.glob("*.md")} == names | {"README"}
    for page in (RUNBOOKS / "README.md", REPOSITORY / "docs" / "observability.md"):
        assert set(re.findall(r"\[(Videojob\w+)\]\(", page.read_text())) == names
