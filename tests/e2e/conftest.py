"""One running hub for the whole folder: starting Airflow for every test would take longer than the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.services import Services


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Services]:
    services = Services(tmp_path_factory.mktemp("hub"))
    services.up()
    yield services
    services.down()
