"""DAG (Airflow): forget what need not be kept, in the ledger and in Airflow."""

from dukou.airflow import work
from dukou.airflow.factory import upkeep_dag

dag = upkeep_dag(
    "prune",
    "清理",
    "Prune",
    "17 * * * *",
    {
        "prune": ("清理台账过期辅助数据 Prune the ledger", work.prune),
        "prune_airflow": ("清理 Airflow 旧运行记录 Prune Airflow", work.prune_airflow),
    },
)
