"""DAG (Airflow): take back lapsed leases, act on deadlines."""

from dukou.airflow import work
from dukou.airflow.factory import EVERY_MINUTE, upkeep_dag

dag = upkeep_dag("sweep", "巡检", "Sweep", EVERY_MINUTE, {"sweep": ("收回过期租约 Sweep", work.sweep)})
