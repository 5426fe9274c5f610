"""Starts Airflow's scheduler with the hub's code loaded: its workers are forks of it, and need not load it for every task.

Only modules are loaded. Nothing is opened before the fork: a task builds its own hub.
"""

from __future__ import annotations

import sys

from airflow.__main__ import main

import dukou.airflow.factory
import dukou.build  # noqa: F401 - for the forks

if __name__ == "__main__":
    sys.argv[:1] = ["airflow", "scheduler"]
    main()
