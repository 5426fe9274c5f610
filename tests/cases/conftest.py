"""The matter as it is shipped."""

from __future__ import annotations

from pathlib import Path

import pytest

from hub.cases.matter import Matter
from hub.registry.declarations import Declarations
from hub.registry.matters import Matters

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def matter() -> Matter:
    return Matters.load(ROOT, Declarations.load(ROOT)).latest("clf_transfer")
