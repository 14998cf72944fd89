"""What was made a short while ago and may be wanted again, up to a number of bytes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class RecentlyUsed(Generic[Key, Value]):
    """Values by key; the least recently used go. Any thread may ask. `size` gives the bytes of a value."""

    def __init__(self, most_bytes: int, size: Callable[[Value], int]) -> None:
        self._most_bytes = most_bytes
        self._size = size
        self._kept: OrderedDict[Key, Value] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, key: Key) -> Value | None:
        """The value, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: Key, value: Value) -> None:
        """Keep `value`; one that takes more than all may take is not kept, and moves nothing out."""
        size = self._size(value)
        if size > self._most_bytes:
            return
        with self._lock:
            if (old := self._kept.pop(key, None)) is not None:
                self._bytes -= self._size(old)
            self._kept[key] = value
            self._bytes += size
            while self._bytes > self._most_bytes:
                self._bytes -= self._size(self._kept.popitem(last=False)[1])
