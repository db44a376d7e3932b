"""The committed dashboards are the generated ones, and query only metrics that exist."""

import json
import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import yaml

from dev.dashboards import DASHBOARDS
from dev.programs import program
from tests.observability.exported import exported, named
from tests.observability.queries import chosen, panels, substituted
from tests.observability.test_alerts import rules

REPOSITORY = Path(__file__).parents[2]
FOLDER = REPOSITORY / "charts" / "videojob" / "dashboards"
FILES = sorted(FOLDER.glob("*.json"))


def expressions(path: Path) -> list[str]:
    """Every query of a dashboard, and those of its annotations."""
    board = json.loads(path.read_text())
    found = [expr for panel in panels(path.read_text()) for expr, _ in panel.queries]
    return found + [annotation["expr"] for annotation in board["annotations"]["list"]]


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    """One of the committed files."""
    found: Path = request.param
    return found


def test_committed_dashboards_are_the_generated_ones(tmp_path: Path) -> None:
    # In a process of its own: nothing that this one has done may change the bytes.
    subprocess.run((sys.executable, "-m", "dev.dashboards", str(tmp_path)), cwd=REPOSITORY, check=True, timeout=60)

    committed = {path.name: path.read_bytes() for path in FILES}

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == committed, (
        "run `python -m dev.dashboards charts/videojob/dashboards` and commit the result"
    )


def test_uids_are_what_links_and_bookmarks_point_to() -> None:
    uids = {path.stem: json.loads(path.read_text())["uid"] for path in FILES}

    assert uids == {name: f"videojob-{name}" for name in ("jobs", "operator", "pools", "stages")}
    assert {board.name for board in DASHBOARDS} == uids.keys()


def test_every_metric_is_exported(path: Path) -> None:
    missing = {name for expr in expressions(path) for name in named(expr)} - exported()

    assert not missing


def test_whatever_an_alert_reads_is_on_a_dashboard() -> None:
    """Whoever is called looks there for how much, and since when."""
    shown = {name for path in FILES for expr in expressions(path) for name in named(expr)}

    assert {name for rule in rules() for name in named(rule["expr"])} <= shown


def test_every_query_parses(path: Path, tmp_path: Path) -> None:
    values = chosen(step=15, scrape=15, seconds=3 * 3600)
    rules = [{"record": "parsed", "expr": substituted(expr, values)} for expr in expressions(path)]
    assert not [rule["expr"] for rule in rules if "$" in rule["expr"]]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": f"g{n}", "rules": [rule]} for n, rule in enumerate(rules)]}))

    checked = subprocess.run(
        (str(program("promtool")), "check", "rules", "--lint=none", str(file)),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_counters_of_the_ensemble_itself_are_not_read(path: Path) -> None:
    """Its pending count stays near 0, its queue time reads 0, and a failure in one of its models counts twice."""
    selectors = [
        selector for expr in expressions(path) for selector in re.findall(r"nv_inference_\w+(\{[^}]*\})?", expr)
    ]

    assert all('model=~".+[.](text_encoder|denoiser|vae_decoder)"' in selector for selector in selectors), selectors


def test_gauges_of_followers_are_left_out(path: Path) -> None:
    """Each operator exports every job that it sees; a plain sum would count it once for each."""
    state = re.compile(
        r"videojob_(jobs|jobs_waiting|jobs_unclaimed|pool_(?!scalings|cold)\w+|heartbeat_age_seconds|orphaned_prefixes)\b"
    )
    for expr in expressions(path):
        if state.search(expr):
            assert "and on (instance) (videojob_operator_leader == 1)" in expr, expr


def test_jobs_that_end_are_counted_once(path: Path) -> None:
    """Each operator counts all that it sees end."""
    ended = re.compile(r"videojob_(gpu_seconds|video_seconds|jobs_ended)_total")
    for expr in expressions(path):
        counted = re.findall(r"max by \([\w, ]+\) \(\w+\(videojob_(?:gpu_seconds|video_seconds|jobs_ended)_total", expr)
        assert len(counted) == len(ended.findall(expr)), expr


def test_panels_have_descriptions_and_units_and_do_not_overlap(path: Path) -> None:
    board = json.loads(path.read_text())
    shown = [panel for panel in board["panels"] if panel["type"] not in ("row", "text")]
    ids = [panel["id"] for panel in board["panels"]]
    titles = [(panel["title"], panel["type"]) for panel in shown]

    assert len(set(ids)) == len(ids) and len(set(titles)) == len(titles)
    for panel in shown:
        assert panel["description"] and panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])
    places = [
        (place.get("x", 0), place.get("y", 0), place["w"], place["h"])
        for place in (panel["gridPos"] for panel in board["panels"])
    ]
    assert all(x + w <= 24 for x, _, w, _ in places)
    for (x, y, w, h), (u, v, a, b) in combinations(places, 2):
        assert x + w <= u or u + a <= x or y + h <= v or v + b <= y


def test_every_dashboard_has_the_variables_and_links_that_lead_to_the_others(path: Path) -> None:
    board = json.loads(path.read_text())
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}

    assert variables["datasource"]["query"] == "prometheus"
    assert variables["namespace"]["allValue"] == ".*"
    assert variables["runbooks"]["query"] == "docs/runbooks"
    assert board["tags"] == ["videojob"]
    assert any(link["type"] == "dashboards" and link["tags"] == ["videojob"] for link in board["links"])


def test_every_link_to_a_runbook_leads_to_one(path: Path) -> None:
    names = re.findall(r"\$\{runbooks\}/([\w.]+)", path.read_text())

    assert names
    assert not [name for name in names if not (REPOSITORY / "docs" / "runbooks" / name).is_file()]
