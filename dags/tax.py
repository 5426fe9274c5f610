"""DAG (Airflow): the tax bureau."""

from dukou.airflow.factory import partner_dag

dag = partner_dag(
    "tax",
    "税务",
    "Tax bureau",
    collect=("clearance_query",),
    deliver=("taxable_case", "result", "withdrawal"),
)
