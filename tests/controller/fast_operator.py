"""The operator as it is, with shorter times: `python -m tests.controller.fast_operator`."""

import argparse
import sys

from videojob.controller.__main__ import start
from videojob.controller.settings import Settings
from videojob.planner.rules import Rules

parser = argparse.ArgumentParser()
parser.add_argument("--bind-address", required=True)
parser.add_argument("--health-port", type=int, required=True)
parser.add_argument("--metrics-port", type=int, required=True)

if __name__ == "__main__":
    rules = Rules(patience_seconds=0.2, backoff_seconds=0.5, backoff_cap_seconds=1.0, external_cost_seconds=1.0)
    sys.exit(
        start(
            Settings(
                **vars(parser.parse_args()),
                rules=rules,
                lease_seconds=3,
                renew_deadline_seconds=2,
                renew_seconds=0.5,
                store_patience_seconds=1.5,
                orphan_retry_seconds=0.5,
                status_seconds=0.2,
            )
        )
    )
