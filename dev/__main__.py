"""`python -m dev up|down|demo|cluster|cluster-down`."""

import argparse
import signal
import sys
import time
from types import FrameType

from rich.console import Console

from dev.cluster import local as pods
from dev.demo import demo
from dev.errors import DevError
from dev.local import down, up


def main() -> int:
    """Carry out the command line; the exit status is 1 with one sentence where that fails."""
    parser = argparse.ArgumentParser(prog="python -m dev", description="The whole system on one machine.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up", help="start cluster, operator and pool, and leave them running")
    commands.add_parser("down", help="stop them, whatever state they are in")
    commands.add_parser("demo", help="make one video, with a system of its own if none is up")
    commands.add_parser("cluster", help="start a cluster with real pods, and videojob in it, and leave it running")
    commands.add_parser("cluster-down", help="stop that cluster and remove what is in it")
    command = parser.parse_args().command

    # Set explicitly: a shell starts background commands with SIGINT ignored, and make passes SIGTERM on.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    console = Console(highlight=False, markup=False)
    began = time.monotonic()

    def report(step: str) -> None:
        console.print(f"{time.monotonic() - began:5.1f} s  {step}", soft_wrap=True)

    try:
        match command:
            case "demo":
                demo(console, report)
            case "up":
                console.print(up(report), soft_wrap=True)
            case "down":
                console.print(down(), soft_wrap=True)
            case "cluster":
                console.print(pods.up(report), soft_wrap=True)
            case _:
                console.print(pods.down(), soft_wrap=True)
    except DevError as failure:
        Console(stderr=True, highlight=False, markup=False).print(str(failure), soft_wrap=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
