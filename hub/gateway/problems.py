"""Turns whatever went wrong into an RFC 9457 problem in Chinese and English, and never says a value."""

from __future__ import annotations

import logging
import math
from types import TracebackType

import orjson

from hub.errors import Refused, Transient
from hub.gateway.asked import PROBLEM_TYPE, Answer
from hub.gateway.codes import CODES
from hub.model.call import Problem

log = logging.getLogger("dukou.gateway")


def problem_of(error: BaseException) -> Problem:
    """The problem that a caller is told; anything that is not a refusal or a delay is ``internal`` without detail."""
    if isinstance(error, Refused):
        return Problem(error.code, error.status, error.en, error.zh, error.faults)
    return coded("busy" if isinstance(error, Transient) else "internal")


def coded(code: str) -> Problem:
    """A problem of the table."""
    entry = CODES[code]
    return Problem(code, entry.status, entry.en, entry.zh)


def retry_after(error: BaseException) -> dict[str, str]:
    """The ``Retry-After`` header of a delay, in whole seconds, at least one; else nothing."""
    if not isinstance(error, Transient):
        return {}
    return {"retry-after": str(max(1, math.ceil(error.retry_after_s or 1)))}


def as_problem(problem: Problem, headers: dict[str, str] | None = None) -> Answer:
    """The answer that carries a problem."""
    document = {
        "type": f"urn:dukou:problem:{problem.code}",
        "title": problem.title,
        "title_zh": problem.title_zh,
        "status": problem.status,
        "code": problem.code,
        "faults": problem.faults,
    }
    return Answer(problem.status, orjson.dumps(document), PROBLEM_TYPE, headers or {})


def log_unexpected(error: BaseException, route: str) -> None:
    """One line with the class and the place of an error; its text and its locals may be personal and stay unsaid."""
    log.error("unexpected route=%s error=%s at=%s", route, type(error).__qualname__, _place(error.__traceback__))


def _place(step: TracebackType | None) -> str:
    places: list[str] = []
    while step is not None:
        code = step.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{step.tb_lineno}:{code.co_name}")
        step = step.tb_next
    return " < ".join(reversed(places[-4:]))
