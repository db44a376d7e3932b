"""`make cluster`, and what the documentation does with it, copied line by line."""

import re
from pathlib import Path

import av
import pytest

from dev.cluster import cluster as clusters
from dev.cluster import local
from tests.cluster.pages import blocks, copied
from tests.cluster.release import Release, ignore_progress

pytestmark = pytest.mark.timeout(900)


def test_the_walkthrough_leads_to_a_video_and_back_to_zero(
    real_pods: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "FOLDER", tmp_path / ".local" / "pods")
    start, exports, *commands, stop = blocks("install", "On one machine: make cluster")
    assert (start, stop) == ("make cluster\n", "make cluster-down\n")
    try:
        printed = local.up(ignore_progress)
        for line in exports.splitlines():
            assert re.search(re.escape(line).replace(r"\.\.\.", ".*"), printed), f"It does not print {line}"
        kubeconfig = Path(*re.findall(r"export KUBECONFIG=(.*)", printed))
        outputs = [copied(command, tmp_path, kubeconfig) for command in commands]
        assert "one-shot" in outputs[0]
        with av.open(tmp_path / "one-shot.mp4") as video:
            assert sum(1 for _ in video.decode(video=0)) == 48

        real = clusters.connect(local.FOLDER)
        assert real is not None
        Release(real, "default").until_empty()
        assert '"toReplicas":0' in copied(commands[-1], tmp_path, kubeconfig)
        assert local.up(ignore_progress).startswith("It is already up.")
    finally:
        assert local.down() == "Stopped."
    assert local.down() == "Nothing is running."
