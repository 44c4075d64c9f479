"""The changes of a deployment, each a whole state of its own, one after the other in the store.

``deployments/<name>/changes/00000012.json`` is version 12. A version is written only where none is, so of two writers
that saw version 11 one gets 12, and the other reads it and applies its change on top, as 13. The newest version is
what is wanted; nothing is ever overwritten.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable

from pydantic import ValidationError

from cluster.errors import InfraError, InternalError, UserError
from cluster.store import Store
from serving.control.endpoint import FOLDER, endpoint_key
from serving.control.names import check_name, unknown
from serving.control.state import SCHEMA_VERSION, ServingState

_TRIES = 200
_HEADER = {"schema_version", "version", "changed_at", "changed_by", "reason"}


class Journal:
    """One deployment's changes. Cheap to ask again and again: it looks only for what follows what it knows.

    Args:
        store: holds the deployment.
        name: the deployment's.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store = store
        self.name = check_name(name)
        self._folder = f"{FOLDER}/{name}/changes/"
        self._known: ServingState | None = None

    def latest(self) -> ServingState | None:
        """The newest version; None where nothing was ever deployed under this name.

        Raises:
            UserError: its record cannot be read.
        """
        if self._known is None:
            newest = self._newest_listed()
            if newest is None:
                return None
            self._known = self.read(newest)
        while (following := self._find(self._known.version + 1)) is not None:
            self._known = following
        return self._known

    def current(self) -> ServingState:
        """The newest version.

        Raises:
            UserError: nothing was ever deployed under this name, or the record cannot be read.
        """
        state = self.latest()
        if state is None:
            raise UserError(
                f"there is no deployment {self.name!r}",
                where=self.store.url,
                next_step="`raymill serve RECIPE` makes one; --store names another store",
            )
        return state

    def read(self, version: int) -> ServingState:
        """One version.

        Raises:
            UserError: there is none with that number, or it cannot be read.
        """
        state = self._find(version)
        if state is None:
            raise UserError(
                f"there is no version {version}",
                where=self.store.uri(self._folder),
                next_step="`raymill status --history` lists them",
            )
        return state

    def history(self) -> list[ServingState]:
        """Every version, oldest first."""
        return [self.read(version) for version in self._listed()]

    def create(self, state: ServingState) -> ServingState:
        """Begin a deployment, with version 1; what was there before goes on with :meth:`change`.

        Raises:
            UserError: there is one of that name.
        """
        if self.latest() is not None:
            return self._taken()
        return self._append(state.model_copy(update={"version": 1})) or self._taken()

    def change(
        self, mutate: Callable[[ServingState], ServingState], *, by: str, reason: str, now: float | None = None
    ) -> ServingState:
        """Apply a change to the newest version and write the result as the next one.

        ``mutate`` gives the wanted state and must have no other effect: it is called again, on what is then newest,
        where another writer came first. One that changes nothing writes nothing.

        Raises:
            UserError: there is no such deployment, a record cannot be read, or ``mutate`` refuses.
        """
        for _ in range(_TRIES):
            latest = self.current()
            wanted = mutate(latest)
            if _content(wanted) == _content(latest):
                return latest
            stamp = {"version": latest.version + 1, "changed_by": by, "reason": reason}
            written = self._append(
                wanted.model_copy(update=stamp | {"changed_at": time.time() if now is None else now})
            )
            if written is not None:
                return written
            time.sleep(random.uniform(0, 0.02))
        raise InfraError(
            f"{_TRIES} other changes came first",
            where=self.store.uri(self._folder),
            next_step="find out who changes it all the time: `raymill status --history`; then repeat the command",
        )

    def _append(self, state: ServingState) -> ServingState | None:
        """Write a version, as this release writes them; None where one with its number is there."""
        data = state.model_copy(update={"schema_version": SCHEMA_VERSION}).model_dump_json(indent=1).encode()
        problem = _incoherent(state)
        if problem:
            raise InternalError(
                f"a change would leave the deployment incoherent: {problem}",
                where=f"deployment {self.name}",
                next_step="nothing was written; please report it",
            )
        checked = ServingState.model_validate_json(data)  # what cannot be read back is not written
        if not self.store.put_if_absent(self._key(state.version), data):
            return None
        self._known = checked
        return checked

    def _taken(self) -> ServingState:
        raise UserError(
            f"deployment {self.name!r} is there already",
            where=self.store.uri(endpoint_key(self.name)),
            next_step="serve it again: it goes on from what is there; another `name` in the recipe makes another one",
        )

    def _key(self, version: int) -> str:
        return f"{self._folder}{version:08d}.json"

    def _listed(self) -> list[int]:
        names = (file.key[len(self._folder) :] for file in self.store.files(self._folder))
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def _newest_listed(self) -> int | None:
        return max(self._listed(), default=None)

    def _find(self, version: int) -> ServingState | None:
        key = self._key(version)
        try:
            data = self.store.read(key)
        except FileNotFoundError:
            return None
        return _decode(data, version, self.store.uri(key))


def deployment_names(store: Store) -> list[str]:
    """Every deployment that the store knows, stopped ones included."""
    return [name for name in store.folders(FOLDER) if Journal(store, name).latest() is not None]


def deployment_name(store: Store, given: str | None) -> str:
    """The deployment that a command means: the given one, or the only one that is wanted, or the only one at all.

    Raises:
        UserError: there is no such deployment, none at all, or several to choose from.
    """
    names = deployment_names(store)
    if given is not None:
        if given not in names:
            raise unknown("deployment", given, names, where=store.url)
        return given
    wanted = [name for name in names if not Journal(store, name).current().stopped] or names
    if not wanted:
        raise UserError(
            "there is no deployment in this store",
            where=store.url,
            next_step="`raymill serve RECIPE` makes one; --store names another store",
        )
    if len(wanted) > 1:
        raise UserError(
            f"there are {len(wanted)} deployments: {', '.join(wanted)}",
            where=store.url,
            next_step=f"choose one, for example --deployment {wanted[0]}",
        )
    return wanted[0]


def _content(state: ServingState) -> dict[str, object]:
    return state.model_dump(exclude=_HEADER)


def _decode(data: bytes, version: int, where: str) -> ServingState:
    try:
        plain = json.loads(data)
        schema = plain["schema_version"]
        if isinstance(schema, int) and schema > SCHEMA_VERSION:
            raise UserError(
                f"a newer Raymill wrote it (schema {schema}; this one reads up to {SCHEMA_VERSION})",
                where=where,
                next_step="use that release, also for the processes that serve",
            )
        state = ServingState.model_validate_json(data)
        if state.version != version:
            raise ValueError(f"it says version {state.version}")
        problem = _incoherent(state)
        if problem:
            raise ValueError(problem)
    except (ValueError, KeyError, TypeError) as error:
        detail = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
        raise UserError(
            f"the record is damaged: {detail}",
            where=where,
            next_step="put it back from a copy of the store; or move it away, and the version before it is in force",
        ) from None
    return state


def _incoherent(state: ServingState) -> str:
    """What in a state contradicts itself; empty where nothing does."""
    if state.weights.keys() != state.variants.keys():
        return "weights and variants name different variants"
    for variant in state.variants.values():
        if variant.engine not in state.engines:
            return f"variant {variant.name} has no engine"
    try:
        owners = {str(owner) for owner, _, _ in state.owners["runs"]}
        state.allocation()
    except (ValueError, KeyError, TypeError) as error:
        return f"the users' buckets: {error}"
    if not owners <= state.variants.keys():
        return f"users belong to {', '.join(sorted(owners - state.variants.keys()))}, which is no variant"
    return ""
