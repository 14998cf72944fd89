"""Sequences that leave the cache go to files, and come back when a prompt begins as they do."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Full, Queue

from interns1_local.engine import cache_state
from interns1_local.engine.llama import Context, EngineError
from interns1_local.engine.native import binding_version, llama_cpp
from interns1_local.engine.options import EngineOptions
from interns1_local.engine.plan import Operation, Store
from interns1_local.engine.prefix_files import Data, PrefixFiles, StoredPrefix
from interns1_local.engine.scheduler import Scheduler
from interns1_local.engine.sequence import Keys
from interns1_local.errors import LoadError

# Shorter ones are computed about as fast as they are read.
SHORTEST_STORED = 64

# A file must have so much more of a prompt than the memory has, or is about to have.
WORTH_RESTORING = 64

# Sequences that wait to be written: more are not copied, as the disk is too slow then.
WAITING_TO_BE_WRITTEN = 2


def open_files(
    context: Context, model_path: Path, mmproj_path: Path | None, options: EngineOptions
) -> PrefixFiles | None:
    """The folder that the options name, for this model; None when they name none. LoadError when it cannot be made."""
    if options.prefix_folder is None:
        return None
    # What adapters change is told apart by the keys.
    paths = model_path, mmproj_path
    layers = int(llama_cpp.llama_model_n_layer(context.model.pointer))
    parts = [binding_version(), layers, context.model.vocab.n_tokens, options.kv_type, options.rope_freq_base]
    text = json.dumps([*parts, *(_identity(path) for path in paths)])
    try:
        return PrefixFiles(options.prefix_folder, hashlib.sha256(text.encode()).digest(), options.prefix_bytes)
    except OSError as error:
        raise LoadError(f"INTERNS1_PREFIX_CACHE_DIR cannot be used: {error}") from error


class StoredPrefixes:
    """Belongs to the thread that computes, but for the writing."""

    def __init__(
        self, context: Context, scheduler: Scheduler, apply: Callable[[list[Operation]], None], files: PrefixFiles
    ) -> None:
        """`apply` carries out operations on the cache."""
        self._context = context
        self._scheduler = scheduler
        self._apply = apply
        self._files = files
        self._queue: Queue[tuple[Keys, Data]] = Queue(WAITING_TO_BE_WRITTEN)
        self._looked_up = 0
        threading.Thread(target=self._write, name="prefixes", daemon=True).start()

    def store(self, operation: Store) -> None:
        """Copy a slot, to be written beside the computing. Left out when it is known, or the disk too slow."""
        if not self._queue.full() and not self._files.holds(operation.keys):
            with suppress(EngineError, Full):
                self._queue.put_nowait((operation.keys, cache_state.save(self._context, operation.slot)))

    def restore(self) -> None:
        """Bring back what those who wait, and may begin, have in common with files; each is looked up once."""
        for sequence in self._scheduler.next_in_line():
            if sequence.arrival <= self._looked_up:
                continue
            self._looked_up = sequence.arrival
            if sequence.scores_prompt:
                continue
            entry, length = self._files.longest(sequence.key_array())
            if entry is None or length < self._scheduler.at_hand(sequence) + WORTH_RESTORING:
                continue
            data = self._files.read(entry)
            if data is not None:
                self._take_in(entry, data)

    def store_all(self, seconds: float) -> None:
        """Write all that is in the cache, the most recently used first, for at most about `seconds`. Sequences at
        work end."""
        deadline = time.monotonic() + seconds
        for sequence in list(self._scheduler.running):
            self._scheduler.finish(sequence)
        self._apply(self._scheduler.take_operations())
        for entry in reversed(self._scheduler.cache.by_age()):
            if time.monotonic() > deadline:
                return
            keys = entry.keys()
            if len(keys) >= SHORTEST_STORED and not self._files.holds(keys):
                with suppress(EngineError):
                    self._files.write(keys, cache_state.save(self._context, entry.slot))
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.01)

    def _take_in(self, entry: StoredPrefix, data: Data) -> None:
        slot = self._scheduler.reserve(len(entry.keys))
        self._apply(self._scheduler.take_operations())
        if slot is None:
            return
        try:
            cache_state.restore(self._context, slot, data, len(entry.keys))
        except EngineError:
            self._scheduler.decline(slot)
            self._files.remove(entry)
        else:
            self._scheduler.adopt(slot, entry.keys)
        self._apply(self._scheduler.take_operations())

    def _write(self) -> None:
        while True:
            keys, data = self._queue.get()
            self._files.write(keys, data)
            self._queue.task_done()


def _identity(path: Path | None) -> tuple[str, int, int] | None:
    """What tells a file from another one: a blob's name is its digest, and others have a size and a time."""
    if path is None:
        return None
    status = path.stat()
    return path.name, status.st_size, status.st_mtime_ns
