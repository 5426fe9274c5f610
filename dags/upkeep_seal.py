"""DAG (Airflow): seal the ledger's new events."""

from dukou.airflow import work
from dukou.airflow.factory import EVERY_MINUTE, upkeep_dag

dag = upkeep_dag("seal", "封存台账", "Seal the ledger", EVERY_MINUTE, {"seal": ("封存新事件 Seal", work.seal)})
