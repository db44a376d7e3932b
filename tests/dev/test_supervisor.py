"""What runs under the supervisor keeps running, and ends with it, however it ends."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dev import supervisor as supervisors
from dev.control_plane import wait_until
from dev.errors import DevError
from dev.processes import marked
from dev.supervisor import REPOSITORY, Process, Supervisor, crash_loop, delay, is_running, read_pid

SLEEPER = Process("sleeper", ("sleep", "600"))
PARENT = Process("parent", ("sh", "-c", "sleep 600 & sleep 600"))
STUBBORN = Process(
    "stubborn",
    (
        sys.executable,
        "-c",
        "import signal, pathlib, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "pathlib.Path(sys.argv[1]).touch(); time.sleep(600)",
    ),
)


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    started = Supervisor(tmp_path)
    yield started
    started.stop()


def eventually(condition: Callable[[], bool], what: str) -> None:
    wait_until(condition, f"Not true: {what}", 20)


def pid_of(supervisor: Supervisor, name: str, other_than: int | None = None) -> int:
    """The id of the process, once it runs (and is another one than before)."""

    def runs() -> bool:
        pid = read_pid(supervisor.folder, name)
        return pid is not None and pid != other_than and pid in marked(supervisor.folder)

    eventually(runs, f"{name} runs")
    pid = read_pid(supervisor.folder, name)
    assert pid is not None
    return pid


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 0.5), (2, 1.0), (3, 2.0), (4, 4.0), (5, 8.0), (6, 10.0), (10_000, 10.0)]
)
def test_delay_doubles_up_to_a_cap(failures: int, seconds: float) -> None:
    assert delay(failures) == seconds


def test_a_killed_process_is_started_again(supervisor: Supervisor) -> None:
    supervisor.run(SLEEPER)
    first = pid_of(supervisor, "sleeper")
    os.kill(first, signal.SIGKILL)
    second = pid_of(supervisor, "sleeper", other_than=first)
    assert marked(supervisor.folder).count(second) == 1
    deaths = json.loads((supervisor.folder / "run" / "sleeper.deaths").read_text())
    assert deaths == {"in_a_row": 1, "last": "SIGKILL"}


def test_children_of_a_killed_process_do_not_outlive_it(supervisor: Supervisor) -> None:
    supervisor.run(PARENT)
    first = pid_of(supervisor, "parent")
    eventually(lambda: len(group(first)) == 3, "the shell has started both sleeps")
    os.kill(first, signal.SIGKILL)
    pid_of(supervisor, "parent", other_than=first)
    assert group(first) == []


def test_a_process_that_cannot_start_is_named_with_its_log(supervisor: Supervisor) -> None:
    supervisor.run(Process("broken", ("sh", "-c", "echo no such luck >&2; exit 3")))
    eventually(lambda: crash_loop(supervisor.folder, ("broken",)) is not None, "the crash loop is noticed")
    log = supervisor.folder / "log" / "broken.log"
    assert crash_loop(supervisor.folder, ("broken",)) == f"broken keeps dying (exit status 3); its log is {log}."
    assert "no such luck" in log.read_text()


def test_a_missing_program_is_a_death_like_any_other(supervisor: Supervisor) -> None:
    supervisor.run(Process("missing", ("/no/such/program",)))
    eventually(
        lambda: "No such file" in (crash_loop(supervisor.folder, ("missing",)) or ""), "the crash loop is noticed"
    )


def test_stopping_leaves_nothing(supervisor: Supervisor) -> None:
    for process in (SLEEPER, PARENT):
        supervisor.run(process)
        pid_of(supervisor, process.name)
    supervisor.stop()
    assert marked(supervisor.folder) == []
    assert not list((supervisor.folder / "run").glob("*.pid"))


def test_processes_stop_in_reverse_order(supervisor: Supervisor) -> None:
    names = ["first", "second", "third"]
    for name in names:
        supervisor.run(Process(name, SLEEPER.argv))
        pid_of(supervisor, name)
    supervisor.stop()
    log = (supervisor.folder / "log" / "supervisor.log").read_text()
    stopped = [line.split()[-1] for line in log.splitlines() if " stopping " in line]
    assert stopped == names[::-1]


def test_one_that_ignores_sigterm_is_killed_after_the_grace(
    tmp_path: Path, supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignoring = tmp_path / "ignoring"
    supervisor.run(Process("stubborn", (*STUBBORN.argv, str(ignoring))))
    eventually(ignoring.exists, "it ignores SIGTERM")
    supervisor.stop()
    assert marked(supervisor.folder) == []


def test_sigkill_of_the_supervisor_takes_its_processes_with_it(supervisor: Supervisor) -> None:
    supervisor.run(SLEEPER)
    pid_of(supervisor, "sleeper")
    os.kill(pid_of(supervisor, "supervisor"), signal.SIGKILL)
    eventually(lambda: not marked(supervisor.folder), "everything is gone")
    eventually(lambda: not is_running(supervisor.folder), "its lock is free")


def test_stop_cleans_up_what_a_killed_supervisor_left(supervisor: Supervisor) -> None:
    supervisor.run(PARENT)
    shell = pid_of(supervisor, "parent")
    eventually(lambda: len(group(shell)) == 3, "the shell has started both sleeps")
    os.kill(pid_of(supervisor, "supervisor"), signal.SIGKILL)
    eventually(lambda: not is_running(supervisor.folder), "the supervisor is dead")
    supervisors.stop(supervisor.folder)
    assert marked(supervisor.folder) == []


def open_files() -> int:
    """How many files this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_a_supervisor_that_somebody_else_has_stopped_leaves_the_starter_no_open_pipe(tmp_path: Path) -> None:
    before = open_files()
    supervisor = Supervisor(tmp_path)
    assert supervisors.stop(tmp_path)
    supervisor.stop()
    assert open_files() == before


def test_a_supervisor_that_does_not_start_leaves_no_open_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    before = open_files()
    with pytest.raises(DevError, match="did not start") as refused:
        Supervisor(tmp_path)
    assert open_files() == before
    del refused  # Until here its traceback has kept the supervisor.


def test_stop_never_signals_another_process_that_got_an_old_pid(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    stranger = subprocess.Popen(("sleep", "600"))
    try:
        for name in ("supervisor", "sleeper"):
            (tmp_path / "run" / f"{name}.pid").write_text(f"{stranger.pid}\n")
        assert supervisors.stop(tmp_path) is False
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_supervisor_is_refused_and_the_first_goes_on(supervisor: Supervisor) -> None:
    supervisor.run(SLEEPER)
    first = pid_of(supervisor, "sleeper")
    with pytest.raises(DevError, match="has a supervisor already"):
        Supervisor(supervisor.folder)
    assert pid_of(supervisor, "sleeper") == first


STARTER = f"""
import os, sys, time
from pathlib import Path
from dev.supervisor import Process, Supervisor
supervisor = Supervisor(Path(sys.argv[1]))
supervisor.run(Process("sleeper", {SLEEPER.argv!r}))
if sys.argv[2] == "detach":
    supervisor.detach()
else:
    time.sleep(600)
"""


def test_everything_ends_with_a_starter_that_is_killed(tmp_path: Path) -> None:
    starter = subprocess.Popen((sys.executable, "-c", STARTER, str(tmp_path), "stay"), cwd=REPOSITORY)
    eventually(lambda: read_pid(tmp_path, "sleeper") is not None, "the sleeper runs")
    starter.kill()
    starter.wait()
    eventually(lambda: not marked(tmp_path), "everything is gone")


def test_a_detached_supervisor_outlives_its_starter(tmp_path: Path) -> None:
    try:
        subprocess.run((sys.executable, "-c", STARTER, str(tmp_path), "detach"), cwd=REPOSITORY, check=True, timeout=20)
        eventually(lambda: read_pid(tmp_path, "sleeper") in marked(tmp_path), "the sleeper runs")
        assert is_running(tmp_path)
    finally:
        assert supervisors.stop(tmp_path)


def group(leader: int) -> list[int]:
    """Ids of the living processes of a process group."""
    members = []
    for entry in Path("/proc").iterdir():
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split() if entry.name.isdigit() else []
        except OSError:
            continue
        if fields and int(fields[2]) == leader and fields[0] != "Z":
            members.append(int(entry.name))
    return members
