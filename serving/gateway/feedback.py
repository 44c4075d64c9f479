"""Reported values of business metrics, as callers send them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from serving.gateway.observation import Feedback
from serving.gateway.observe import unit_of
from serving.gateway.wire import MAX_KEY_LENGTH, ApiError

METRIC_NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
_METRIC = re.compile(METRIC_NAME)
_REQUEST = re.compile(r"[A-Za-z0-9._:-]{1,128}")
LARGEST_VALUE = 1e15


def feedback_of(body: Mapping[str, Any], experiment: str, now: float) -> Feedback:
    """What ``{"user" or "request_id", "metric", "value"}`` reports.

    Args:
        now: seconds since the epoch.

    Raises:
        ApiError: 400, it is not that.
    """
    metric, value = body.get("metric"), body.get("value")
    if not isinstance(metric, str) or not _METRIC.fullmatch(metric):
        raise _invalid("metric", "a name of letters, digits, _ . - (at most 64)")
    if isinstance(value, bool):
        value = int(value)
    if not isinstance(value, (int, float)) or not math.isfinite(value) or abs(value) > LARGEST_VALUE:
        raise _invalid("value", f"a number of at most {LARGEST_VALUE:g}")
    user, request = body.get("user"), body.get("request_id")
    if (user is None) == (request is None):
        raise _invalid("user", "given, or request_id instead (one of them)")
    if user is not None:
        if not isinstance(user, str) or not 0 < len(user) <= MAX_KEY_LENGTH:
            raise _invalid("user", f"a text of 1 to {MAX_KEY_LENGTH} characters")
        return Feedback(metric, float(value), now, unit=unit_of(experiment, user))
    if not isinstance(request, str) or not _REQUEST.fullmatch(request):
        raise _invalid("request_id", "the X-Request-Id of an answer")
    return Feedback(metric, float(value), now, request=request)


def _invalid(field: str, what: str) -> ApiError:
    return ApiError(400, f"{field} must be {what}", code="invalid_feedback", param=field)
