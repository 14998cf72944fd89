"""What an engine is started with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from interns1_local.engine.device_shares import DeviceShares
from interns1_local.engine.multimodal import CACHE_BYTES
from interns1_local.engine.offload import AS_IT_COMES, Offload


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """`n_ctx` bounds one request, `n_cells` all together (0: as `n_ctx`); `n_seq_max` requests are computed at once."""

    n_ctx: int = 4096
    n_cells: int = 0
    n_seq_max: int = 8
    n_batch: int = 512
    n_threads: int = 1
    offload: Offload = AS_IT_COMES
    kv_type: str = "f16"
    flash_attention: str = "auto"
    backend_sampling: str = "off"
    share_prefixes: bool = True
    # 0: the file's own.
    rope_freq_base: float = 0.0
    image_cache_bytes: int = CACHE_BYTES
    # LoRAs, of which a request chooses one; the first is applied to those that do not.
    adapter_paths: tuple[Path, ...] = ()
    # A smaller model of the same vocabulary, to guess ahead.
    draft_path: Path | None = None
    # Where sequences are kept that leave the cache, and how much of the disk all together may take.
    prefix_folder: Path | None = None
    prefix_bytes: int = 4 << 30
    shares: DeviceShares | None = None


DEFAULTS = EngineOptions()
