"""The table of metrics is that of the code."""

from pathlib import Path

from dev.metrics_doc import document

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_committed_table_is_the_generated_one() -> None:
    assert PAGE.read_text() == document(), "run `make generate` and commit the result"


def test_no_metric_has_a_label_for_a_job_a_user_or_a_prompt() -> None:
    labels = {
        label for line in document().splitlines() if line.startswith("| `") for label in line.split("|")[3].split(",")
    }
    assert {label.strip() for label in labels} <= {
        "",
        "code",
        "decision",
        "direction",
        "kind",
        "model",
        "namespace",
        "outcome",
        "part",
        "phase",
        "pool",
        "queue",
        "reason",
        "replica",
        "result",
        "signal",
        "stage",
        "state",
        "type",
        "verb",
        "version",
        "what",
    }
