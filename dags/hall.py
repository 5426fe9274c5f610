"""DAG (Airflow): the online service hall."""

from dukou.airflow.factory import partner_dag

dag = partner_dag("hall", "网上“一窗办事”大厅", "Online service hall", deliver=("notice",))
