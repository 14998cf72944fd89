"""What every route needs: the settings, the store, the loaded models, and models by name (`nano` comes by itself)."""

from __future__ import annotations

import asyncio
import difflib
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request

from interns1_local.config import Settings, parse_duration
from interns1_local.errors import BadRequest, ModelNotFound
from interns1_local.runners.model_scheduler import ModelScheduler
from interns1_local.runners.model_spec import ModelSpec
from interns1_local.store.model_store import ModelStore, StoredModel
from interns1_local.store.name import ModelName
from interns1_local.store.nano import is_nano, pull_nano


@dataclass(slots=True)
class Services:
    settings: Settings
    store: ModelStore
    scheduler: ModelScheduler
    _nano: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def model(self, name: str) -> StoredModel:
        """The stored model of that name. The shipped one is converted on its first use, once."""
        parsed = await asyncio.to_thread(self._find, name)
        if parsed is not None:
            return await asyncio.to_thread(self.store.resolve, parsed)
        if not is_nano(name):
            raise await asyncio.to_thread(self.missing, name)
        async with self._nano:
            if await asyncio.to_thread(self._find, name) is None:
                await asyncio.to_thread(pull_nano, self.store)
        return await asyncio.to_thread(self.store.resolve, name)

    def missing(self, name: str) -> ModelNotFound:
        """The error for a model that is not there, with the name that may have been meant."""
        known = [stored.short.removesuffix(":latest") for stored in self.store.names()]
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "try pulling it first"
        return ModelNotFound(f"model '{name}' not found, {hint}")

    def _find(self, name: str) -> ModelName | None:
        return self.store.find(name)


def services_of(request: Request) -> Services:
    services: Services = request.app.state.services
    return services


def resolver(store: ModelStore) -> Any:
    """The scheduler's way from a name to the files and the load options of its Modelfile."""

    def resolve(name: str) -> ModelSpec:
        return ModelSpec.of(store.resolve(name))

    return resolve


def keep_alive_seconds(value: Any) -> float | None:
    """`keep_alive` of a request: seconds or a Go duration; None when it is not given."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise BadRequest(f"json: cannot unmarshal {kind} into a duration; write seconds or a text such as 5m")
    return parse_duration(value)
