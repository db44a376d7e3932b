"""`python -m dev.dashboards FOLDER`."""

import argparse
from pathlib import Path

from dev.dashboards import DASHBOARDS


def main() -> None:
    """Write the dashboards."""
    parser = argparse.ArgumentParser(prog="python -m dev.dashboards", description="Write the Grafana dashboards.")
    parser.add_argument("folder", type=Path, help="where NAME.json of each is written")
    folder = parser.parse_args().folder
    for board in DASHBOARDS:
        (folder / f"{board.name}.json").write_text(board.json())


if __name__ == "__main__":
    main()
