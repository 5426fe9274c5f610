"""Settings: defaults, faults all at once, nothing secret shown, the same in every process."""

import pytest

from dukou.settings import Settings, masked
from hub.errors import Misconfigured

NAMES = {
    "DUKOU_ROOT",
    "DUKOU_VAR",
    "DUKOU_DATABASE_URL",
    "DUKOU_BROKER_URL",
    "DUKOU_GATEWAY_PORT",
    "DUKOU_AIRFLOW_PORT",
    "DUKOU_SANDBOX_PORT",
    "DUKOU_CLOCK_WINDOW_S",
    "DUKOU_RETRY_SCALE",
    "DUKOU_ENVIRONMENT",
    "DUKOU_KEYS",
    "DUKOU_MAX_BODY_BYTES",
    "DUKOU_AIRFLOW_HOME",
    "DUKOU_AIRFLOW_DATABASE_URL",
    "DUKOU_AIRFLOW_KEEP_H",
}


def test_defaults_are_those_of_the_interfaces():
    settings = Settings.from_env({})
    assert (settings.gateway_port, settings.airflow_port, settings.sandbox_port) == (8800, 8080, 8900)
    assert (settings.clock_window_s, settings.retry_scale, settings.environment) == (300, 1, "demo")
    assert settings.var == settings.root / "var"
    assert settings.database_url == f"sqlite:///{settings.var}/dukou.db"
    assert settings.keys == f"file:{settings.var}/keys/keys.json"
    assert settings.max_body_bytes == 2 * 1024 * 1024


def test_a_relative_folder_means_the_same_from_everywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings.from_env({"DUKOU_VAR": "elsewhere"})
    assert settings.var == settings.root / "elsewhere"
    assert settings.airflow_home == settings.var / "airflow"


def test_a_child_sees_what_its_parent_saw(tmp_path):
    settings = Settings.from_env({"DUKOU_VAR": str(tmp_path), "DUKOU_RETRY_SCALE": "20", "DUKOU_ENVIRONMENT": "test"})
    assert Settings.from_env(settings.to_env()) == settings


def test_every_fault_is_reported_and_no_value_repeated():
    with pytest.raises(Misconfigured) as caught:
        Settings.from_env(
            {
                "DUKOU_GATEWAY_PORT": "eighty-eight",
                "DUKOU_ENVIRONMENT": "reality",
                "DUKOU_DATABASE_URL": "mysql://root:opensesame@db/x",
                "DUKOU_RETRY_SCALE": "0",
                "DUKOU_GATWAY_PORT": "1",
            }
        )
    faults = {fault.path: fault for fault in caught.value.faults}
    assert set(faults) == {
        "/DUKOU_GATEWAY_PORT",
        "/DUKOU_ENVIRONMENT",
        "/DUKOU_DATABASE_URL",
        "/DUKOU_RETRY_SCALE",
        "/DUKOU_GATWAY_PORT",
    }
    assert "DUKOU_GATEWAY_PORT" in faults["/DUKOU_GATWAY_PORT"].en
    said = str(caught.value) + repr(caught.value.faults)
    assert not any(value in said for value in ("eighty-eight", "reality", "opensesame"))
    assert all(fault.zh for fault in caught.value.faults)


@pytest.mark.parametrize(
    "env",
    [
        {"DUKOU_GATEWAY_PORT": "8080"},
        {"DUKOU_GATEWAY_PORT": "8903"},
        {"DUKOU_SANDBOX_PORT": "65533"},
        {"DUKOU_DATABASE_URL": "sqlite:///relative.db"},
        {"DUKOU_BROKER_URL": "redis://127.0.0.1"},
        {"DUKOU_KEYS": "vault:secret"},
        {"DUKOU_ROOT": "/nowhere"},
    ],
)
def test_what_cannot_work_is_refused(env):
    with pytest.raises(Misconfigured):
        Settings.from_env(env)


def test_names_of_tests_and_measurements_are_not_ours():
    assert Settings.from_env({"DUKOU_TEST_POSTGRES_URL": "x", "DUKOU_DEMO_SETUP_SECONDS": "1", "HOME": "/"})


def test_rows_show_every_setting_in_both_languages_and_mask_passwords():
    settings = Settings.from_env({"DUKOU_BROKER_URL": "amqp://hub:opensesame@mq:5672//"})
    rows = {row.name: row for row in settings.rows()}
    assert set(rows) == NAMES
    assert rows["DUKOU_BROKER_URL"].value == "amqp://hub:***@mq:5672//"
    assert rows["DUKOU_BROKER_URL"].given
    assert not rows["DUKOU_GATEWAY_PORT"].given
    assert all(row.en and row.zh for row in rows.values())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@h/db", "postgresql://u:***@h/db"),
        ("postgresql://u@h/db", "postgresql://u@h/db"),
        ("filesystem://", "filesystem://"),
        ("sqlite:////a/b.db", "sqlite:////a/b.db"),
    ],
)
def test_masking_changes_the_password_only(url, shown):
    assert masked(url) == shown
