"""A wrong option is one sentence and exit status 1."""

from pathlib import Path

import pytest

from videojob.runner.options import parse

MODEL_REPO = str(Path(__file__).parents[2] / "model_repo")
GOOD = {"--pool": "p", "--replica": "r", "--model-repository": MODEL_REPO, "--repository": "out"}


def arguments(**changes: str) -> list[str]:
    options = {**GOOD, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return [part for option, value in options.items() for part in (option, value)]


def test_defaults() -> None:
    options = parse(arguments())

    assert (options.pool, options.replica, options.namespace) == ("p", "r", "videojob-system")
    assert (options.lease_seconds, options.cut_off_seconds) == (15, 1800)
    assert (options.metrics_port, options.memory_bytes) == (None, 0)
    assert (options.pod_uid, options.health_port, options.drain_seconds, options.log_format) == (
        None,
        None,
        90.0,
        "text",
    )


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        pytest.param({"pool": "P"}, "'P' is no name", id="capital letter"),
        pytest.param({"replica": "a,b"}, "'a,b' is no name", id="a comma would end a selector"),
        pytest.param({"replica": "a" * 64}, "is no name", id="too long"),
        pytest.param({"namespace": ""}, "is no name", id="empty"),
        pytest.param({"metrics_port": "70000"}, "'70000' is no port", id="port"),
        pytest.param({"lease_seconds": "1"}, "from 2 to 600", id="short lease"),
        pytest.param({"cut_off_seconds": "100000"}, "up to a day", id="cut off for too long"),
        pytest.param({"ready_seconds": "soon"}, "'soon' is no such time", id="no number"),
        pytest.param({"drain_seconds": "0"}, "'0' is no such time", id="no time to drain"),
        pytest.param({"pod_uid": "$(POD_UID)"}, "is no uid of a pod", id="a variable that was not set"),
        pytest.param({"log_format": "xml"}, "invalid choice: 'xml'", id="log format"),
        pytest.param({"memory_bytes": "-1"}, "is no number of bytes", id="negative"),
        pytest.param({"model_repository": "/nowhere"}, "lacks text_encoder", id="no templates"),
    ],
)
def test_a_wrong_option(changes: dict[str, str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments(**changes))

    assert ended.value.code == 1
    printed = capsys.readouterr().err
    assert sentence in printed
    assert printed.count("\n") == 1


def test_a_missing_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--pool", "p"])

    assert ended.value.code == 1
    assert "--replica" in capsys.readouterr().err
