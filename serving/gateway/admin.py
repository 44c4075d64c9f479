"""The admin calls: what this gateway works by, and a change of weights. The deployment's state is in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from cluster.errors import RaymillError, UserError
from serving.gateway.report import Reporting
from serving.gateway.wire import ApiError, Unavailable


class AdminCalls(Protocol):
    """What admin calls need of the deployment's state; blocking, called in a thread."""

    def status(self) -> Mapping[str, Any]:
        """The deployment as the controller last wrote it down."""

    def set_weights(self, weights: Mapping[str, float], by: str, reason: str) -> Mapping[str, Any]:
        """Change the split; the new state's version, weights and reason.

        Raises:
            UserError: the weights are refused.
        """


class StoreCalls:
    """Admin calls that read and write the deployment's records in the store.

    Args:
        url: the store's.
        deployment: the deployment's name.
    """

    def __init__(self, url: str, deployment: str) -> None:
        self._url, self._deployment = url, deployment

    def status(self) -> Mapping[str, Any]:
        """See :class:`AdminCalls`."""
        from cluster.store import open_store
        from serving.control import status

        found = status.read(open_store(self._url), self._deployment)
        return found.model_dump(mode="json") if found else {}

    def set_weights(self, weights: Mapping[str, float], by: str, reason: str) -> Mapping[str, Any]:
        """See :class:`AdminCalls`."""
        from cluster.store import open_store
        from serving.control import operations
        from serving.control.journal import Journal

        journal = Journal(open_store(self._url), self._deployment)
        state = operations.set_weights(journal, weights, by=by, reason=reason)
        return {"version": state.version, "weights": state.weights, "by": by, "reason": state.reason}


class Admin:
    """Answers admin calls.

    Args:
        calls: None where there is no store to write to.
    """

    def __init__(self, reporting: Reporting, calls: AdminCalls | None) -> None:
        self._reporting, self._calls = reporting, calls

    async def status(self) -> dict[str, Any]:
        """This gateway, and the deployment where the store tells."""
        answer: dict[str, Any] = {"gateway": self._reporting.status()}
        if self._calls is not None:
            answer["deployment"] = await self._call(self._calls.status)
        return answer

    def weights(self) -> dict[str, Any]:
        """The split that this gateway works by."""
        return self._reporting.split()

    async def set_weights(self, body: Mapping[str, Any], by: str) -> dict[str, Any]:
        """Change the split.

        Raises:
            ApiError: 400 the weights are refused, 503 there is no store.
        """
        weights, reason = body.get("weights"), body.get("reason", "by an admin call")
        numbers = isinstance(weights, dict) and all(type(each) in (int, float) for each in weights.values())
        if not numbers or not isinstance(weights, dict) or not weights:
            message = 'weights must name each variant with a number, as in {"weights": {"base": 90, "tuned": 10}}'
            raise ApiError(400, message, code="invalid_weights", param="weights")
        if not isinstance(reason, str) or len(reason) > 1000:
            raise ApiError(400, "reason must be a text of at most 1000 characters", param="reason")
        if self._calls is None:
            raise Unavailable("this gateway has no store to write the weights to", code="no_store", retry_after=60)
        return await self._call(
            self._calls.set_weights, {name: float(each) for name, each in weights.items()}, by, reason
        )

    async def _call(self, call: Any, *arguments: Any) -> dict[str, Any]:
        try:
            return dict(await asyncio.to_thread(call, *arguments))
        except UserError as error:
            raise ApiError(400, str(error), code="refused") from None
        except RaymillError as error:
            raise Unavailable(str(error), code="store_unavailable", retry_after=5) from None
