"""DAG (Airflow): the integrated government service platform."""

from dukou.airflow.factory import partner_dag

dag = partner_dag(
    "platform",
    "一体化政务服务平台",
    "Government service platform",
    deliver=("identity_check", "unified_number", "progress", "evaluation_invite"),
)
