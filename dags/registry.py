"""DAG (Airflow): a city's registration system."""

from dukou.airflow.factory import partner_dag

dag = partner_dag(
    "registry",
    "市不动产登记系统",
    "City registration system",
    collect=("result_query",),
    deliver=("case", "clearance", "withdrawal"),
)
