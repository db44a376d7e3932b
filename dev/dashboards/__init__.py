"""The Grafana dashboards, written in Python: `python -m dev.dashboards FOLDER` writes one JSON file for each.

Each operator exports what it sees, also while it stands by: a plain sum would count every job once for each of them.
So queries keep the gauges of the leader only (`leading`), and of the counters of ended jobs the largest (`counted`).
"""

from dev.dashboards import jobs, operator, pools, stages
from dev.dashboards.panels import Dashboard

DASHBOARDS: tuple[Dashboard, ...] = (jobs.DASHBOARD, pools.DASHBOARD, stages.DASHBOARD, operator.DASHBOARD)
"""All dashboards, in the order in which a person looks at them."""
