"""The Grafana dashboards, written in Python: `python -m dev.dashboards FOLDER` writes one JSON file for each.

Every query that reads the operator's gauges keeps those of the leader only (`leading`): each operator exports what it
sees, so a plain sum would count every job once for each of them.
"""

from dev.dashboards import jobs, operator, pools, stages
from dev.dashboards.board import Board

BOARDS: tuple[Board, ...] = (jobs.BOARD, pools.BOARD, stages.BOARD, operator.BOARD)
"""All dashboards, in the order in which a person looks at them."""
