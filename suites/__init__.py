"""The crypto suites `intl` and `gm`: hash, authenticate, seal; one protocol, picked by name.

A suite's name travels with what it made, so that a deployment may change suites and still read its past.
"""

from suites.gm import Gm
from suites.intl import Intl
from suites.suite import Randomness, SealBroken, Suite, SuiteError, SuiteUnknown

__all__ = ["NAMES", "Randomness", "SealBroken", "Suite", "SuiteError", "SuiteUnknown", "get"]

_SUITES: dict[str, Suite] = {"intl": Intl(), "gm": Gm()}

NAMES: tuple[str, ...] = tuple(_SUITES)


def get(name: str) -> Suite:
    """The suite of this name.

    Raises:
        SuiteUnknown: no such suite; the text lists the known ones.
    """
    try:
        return _SUITES[name]
    except KeyError:
        raise SuiteUnknown(NAMES) from None
