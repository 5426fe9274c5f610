"""How a stand-in is told to misbehave: the closed list of settings, and how long each of them holds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sandbox.state import State

_HTTP_STATUS = range(200, 600)

REQUEST_KEYS = frozenset(
    {"latency_ms", "status", "down", "garbage", "code_wrong", "office_closed", "seized_units", "redelivery"}
)
CALLBACK_KEYS = frozenset({"duplicate_callbacks", "skip_callback", "callback_delay_ms"})
KNOWN_KEYS = (*sorted(REQUEST_KEYS | CALLBACK_KEYS), "times")

# A setting that only says what to do with some requests is used up by those alone.
_ALWAYS_COUNTED = REQUEST_KEYS - {"seized_units"}


class Unacceptable(Exception):
    """A setting that cannot be taken; ``faults`` name each key and what is wrong with it."""

    def __init__(self, faults: dict[str, str]) -> None:
        super().__init__("; ".join(f"{key}: {fault}" for key, fault in faults.items()))
        self.faults = faults


def _is_flag(value: object) -> bool:
    return isinstance(value, bool)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_status(value: object) -> bool:
    return _is_count(value) and value in _HTTP_STATUS


def _is_units(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(unit, str) for unit in value)


def _is_flag_or_units(value: object) -> bool:
    return _is_flag(value) or _is_units(value)


def _is_flag_or_code(value: object) -> bool:
    return _is_flag(value) or (isinstance(value, str) and bool(value))


_VOCABULARY: Mapping[str, tuple[Callable[[object], bool], str]] = {
    "latency_ms": (_is_count, "milliseconds, 0 or more"),
    "status": (_is_status, "an HTTP status, 200 to 599"),
    "down": (_is_flag, "true or false"),
    "garbage": (_is_flag, "true or false"),
    "code_wrong": (_is_flag_or_code, "true, false, or the code to answer"),
    "duplicate_callbacks": (_is_flag_or_units, "true, false, or a list of unit codes"),
    "skip_callback": (_is_flag_or_units, "true, false, or a list of unit codes"),
    "office_closed": (_is_flag, "true or false"),
    "seized_units": (_is_units, "a list of unit codes"),
    "redelivery": (lambda value: value in ("idempotent", "manual"), "idempotent or manual"),
    "callback_delay_ms": (_is_count, "milliseconds, 0 or more"),
    "times": (_is_count, "how many requests or callbacks"),
}


def checked(document: object) -> dict[str, Any]:
    """Check a setting; keys that say "off" (null, false, 0, empty) are left out.

    Raises:
        Unacceptable: it is no object, or a key is unknown or of a wrong kind; all faults at once.
    """
    if not isinstance(document, dict):
        raise Unacceptable({"": "a JSON object"})
    faults: dict[str, str] = {}
    for key, value in document.items():
        if key not in _VOCABULARY:
            faults[key] = "unknown"
        elif value is not None and not _VOCABULARY[key][0](value):
            faults[key] = _VOCABULARY[key][1]
    if faults:
        raise Unacceptable(faults)
    # A delay of zero is a wish of its own: call back at once.
    return {key: value for key, value in document.items() if value or (key == "callback_delay_ms" and value == 0)}


def _concerns(value: object, unit: str) -> bool:
    return unit in value if isinstance(value, list) else bool(value)


@dataclass(frozen=True, slots=True)
class Misbehaviour:
    """What holds for one request or one callback."""

    keys: Mapping[str, Any]

    @property
    def latency_s(self) -> float:
        """How long to wait between receipt and answer."""
        return int(self.keys.get("latency_ms", 0)) / 1000

    @property
    def status(self) -> int:
        """The HTTP status to answer instead of working, or 0."""
        return int(self.keys.get("status", 0))

    @property
    def down(self) -> bool:
        """Whether the stand-in is dead."""
        return bool(self.keys.get("down"))

    @property
    def garbage(self) -> bool:
        """Whether the answer is no JSON."""
        return bool(self.keys.get("garbage"))

    @property
    def office_closed(self) -> bool:
        """Whether the office is closed."""
        return bool(self.keys.get("office_closed"))

    @property
    def absorbs_repeats(self) -> bool:
        """Whether a repeated delivery id is absorbed."""
        return bool(self.keys.get("redelivery") != "manual")

    def wrong_code(self, default: str) -> str:
        """The unlisted code to answer, or an empty text."""
        wanted = self.keys.get("code_wrong")
        return wanted if isinstance(wanted, str) else default if wanted else ""

    def seized(self, unit: str) -> bool:
        """Whether a unit is held by a seizure."""
        return unit in self.keys.get("seized_units", ())


@dataclass(slots=True)
class _Held:
    """One partner's setting and what is left of it; ``None`` is without end."""

    keys: dict[str, Any] = field(default_factory=dict)
    requests_left: int | None = None
    callbacks_left: int | None = None


class Control:
    """The settings in force, one per partner, kept in the state file."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._held = {
            partner: _Held(kept["keys"], kept["requests_left"], kept["callbacks_left"])
            for partner, kept in state.control().items()
        }

    def put(self, partner: str, document: object) -> None:
        """Replace a partner's setting.

        Raises:
            Unacceptable: it cannot be taken.
        """
        keys = checked(document)
        times = keys.pop("times", None)
        self._keep(partner, _Held(keys, times, times))

    def reset(self, partner: str) -> None:
        """Let a partner behave again."""
        self._keep(partner, _Held())

    def show(self, partner: str) -> dict[str, Any]:
        """What holds for a partner; ``times`` is what is left of it."""
        held = self._held.get(partner, _Held())
        requests, callbacks = self._request_keys(held), self._callback_keys(partner, held)
        left = held.requests_left if requests else held.callbacks_left
        shown = {key: value for key, value in held.keys.items() if key in requests or key in callbacks}
        return {**shown, **({"times": left} if shown and left is not None else {})}

    def peek(self, partner: str) -> Misbehaviour:
        """What holds for requests, without using it up."""
        return Misbehaviour(self._request_keys(self._held.get(partner, _Held())))

    def dead(self, partner: str) -> bool:
        """Whether a partner is down until told otherwise: it neither listens nor calls."""
        return self.peek(partner).down and self._held[partner].requests_left is None

    def for_request(self, partner: str) -> Misbehaviour:
        """What holds for the request at hand; one of its times is used up if it is concerned."""
        found = self.peek(partner)
        if _ALWAYS_COUNTED & found.keys.keys():
            self._use_up(partner)
        return found

    def seizes(self, partner: str, found: Misbehaviour, unit: str) -> bool:
        """Whether a unit is seized for the request at hand; a setting that says only that is used up by this."""
        seized = found.seized(unit)
        if seized and not _ALWAYS_COUNTED & found.keys.keys():
            self._use_up(partner)
        return seized

    def for_callback(self, partner: str, kind: str, unit: str) -> dict[str, Any]:
        """What becomes of a callback: ``skip``, ``copies``, ``delay_ms``, ``code_wrong``; empty if nothing special.

        Only results are skipped, never progress: a lost result is what a query must find.
        """
        held = self._held.get(partner, _Held())
        keys = self._callback_keys(partner, held)
        fate: dict[str, Any] = {}
        if _concerns(keys.get("skip_callback"), unit) and kind in ("clearance", "result"):
            fate["skip"] = True
        if _concerns(keys.get("duplicate_callbacks"), unit):
            fate["copies"] = 2
        if "callback_delay_ms" in keys:
            fate["delay_ms"] = keys["callback_delay_ms"]
        if "code_wrong" in keys:
            fate["code_wrong"] = keys["code_wrong"] if isinstance(keys["code_wrong"], str) else "9"
        if fate and held.callbacks_left is not None:
            held.callbacks_left -= 1
            self._keep(partner, held)
        return fate

    def _use_up(self, partner: str) -> None:
        held = self._held[partner]
        if held.requests_left is not None:
            held.requests_left = max(0, held.requests_left - 1)
            self._keep(partner, held)

    @staticmethod
    def _request_keys(held: _Held) -> dict[str, Any]:
        spent = held.requests_left == 0
        return {} if spent else {key: value for key, value in held.keys.items() if key in REQUEST_KEYS}

    @staticmethod
    def _callback_keys(partner: str, held: _Held) -> dict[str, Any]:
        # The tax office also tells a wrong code in its own calls.
        concerned = CALLBACK_KEYS | {"code_wrong"} if partner == "tax" else CALLBACK_KEYS
        spent = held.callbacks_left == 0
        return {} if spent else {key: value for key, value in held.keys.items() if key in concerned}

    def _keep(self, partner: str, held: _Held) -> None:
        self._held[partner] = held
        self._state.put_control(
            partner,
            {"keys": held.keys, "requests_left": held.requests_left, "callbacks_left": held.callbacks_left},
        )
