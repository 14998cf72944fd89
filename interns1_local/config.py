"""Settings: the environment read once into one frozen value. `INTERNS1_*` names come first, then `OLLAMA_*`."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from interns1_local.errors import BadRequest

DEFAULT_PORT = 11434
FOREVER = -1.0
# How a terminal may be wished to show pictures.
GRAPHICS = ("auto", "kitty", "sixel", "blocks", "off")

_UNIT_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION_HINT = "write it as 30s, 5m, 1h30m or -1m (for ever)"
_DURATION_PART = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LOCAL_ORIGINS = tuple(
    f"{scheme}://{host}{port}"
    for host in ("localhost", "127.0.0.1", "0.0.0.0")
    for scheme in ("http", "https")
    for port in ("", ":*")
)
_APP_ORIGINS = ("app://*", "file://*", "tauri://*", "vscode-webview://*", "vscode-file://*")


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says. Durations in seconds (-1 is forever); 0 means automatic where a count is asked.

    `gpu_overhead` is in bytes: what is left free of each GPU. `sched_spread` uses all GPUs even where one is enough.
    `image_cache` is in MB: the encoded pictures that each loaded model remembers. `prefix_cache_size` is in MB too: the
    files in `prefix_cache_dir`, where what models have read is kept when they are unloaded. None: it is not kept.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    models_dir: Path = Path.home() / ".interns1" / "models"
    keep_alive: float = 300.0
    num_parallel: int = 0
    max_queue: int = 512
    max_loaded_models: int = 0
    context_length: int = 0
    threads: int = 0
    load_timeout: float = 300.0
    kv_cache_type: str = ""
    # Load options by name for all models, as requests and Modelfiles write them.
    load: Mapping[str, Any] = field(default_factory=dict)
    gpu_overhead: int = 0
    sched_spread: bool = False
    origins: tuple[str, ...] = _LOCAL_ORIGINS + _APP_ORIGINS
    noprune: bool = False
    nohistory: bool = False
    debug: bool = False
    api_key: str = field(default="", repr=False)
    log_format: str = "text"
    image_urls: str = ""
    image_cache: int = 256
    prefix_cache_dir: Path | None = None
    prefix_cache_size: int = 4096
    # Whether a worker process waits for a model while none is loaded.
    spare_worker: bool = True
    # Seconds between two messages of an answer: the tokens that come between them go together.
    stream_interval: float = 0.03
    editor: str = ""
    graphics: str = "auto"
    # A GGUF file or a stored model that guesses ahead for models of its vocabulary.
    draft: str = ""
    # Other machines that hold layers (`interns1 rpc-worker`), as host:port.
    rpc: tuple[str, ...] = ()
    # Servers that models of others may send prompts to; keys by host, "" for all others; seconds of silence.
    upstreams: tuple[str, ...] = ()
    upstream_keys: Mapping[str, str] = field(default_factory=dict, repr=False)
    upstream_timeout: float = 600.0

    @property
    def base_url(self) -> str:
        """Where a client on this machine reaches the server."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(self.host, self.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def upstream_key(self, host: str) -> str:
        """The key for the server at `host` (or host:port): its own, else the one for all."""
        names = (_variable_part(host), _variable_part(host.rpartition(":")[0] or host), "")
        return next((self.upstream_keys[name] for name in names if name in self.upstream_keys), "")

    @property
    def cache_dir(self) -> Path:
        """What can be made again: copies of vision files, and what was measured of llama.cpp."""
        return Path.home() / ".interns1" / "cache"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read `environ`. A value that cannot be understood is an error that names the variable."""

    def read(name: str) -> str:
        return (environ.get(f"INTERNS1_{name}") or environ.get(f"OLLAMA_{name}") or "").strip().strip("\"'").strip()

    host, port = parse_host(read("HOST"))
    models, prefixes = read("MODELS"), read("PREFIX_CACHE_DIR")
    defaults = Settings()
    return Settings(
        host=host,
        port=port,
        models_dir=Path(models).expanduser().absolute() if models else defaults.models_dir,
        keep_alive=_duration(read("KEEP_ALIVE"), "KEEP_ALIVE", defaults.keep_alive),
        num_parallel=_count(read("NUM_PARALLEL"), "NUM_PARALLEL", defaults.num_parallel),
        max_queue=_count(read("MAX_QUEUE"), "MAX_QUEUE", defaults.max_queue),
        max_loaded_models=_count(read("MAX_LOADED_MODELS"), "MAX_LOADED_MODELS", defaults.max_loaded_models),
        context_length=_count(read("CONTEXT_LENGTH"), "CONTEXT_LENGTH", defaults.context_length),
        threads=_count(read("THREADS"), "THREADS", defaults.threads),
        load_timeout=_duration(read("LOAD_TIMEOUT"), "LOAD_TIMEOUT", defaults.load_timeout),
        kv_cache_type=read("KV_CACHE_TYPE"),
        load=_load_options(read),
        gpu_overhead=_count(read("GPU_OVERHEAD"), "GPU_OVERHEAD", defaults.gpu_overhead),
        sched_spread=_flag(read("SCHED_SPREAD")),
        origins=_list(read("ORIGINS")) + defaults.origins,
        noprune=_flag(read("NOPRUNE")),
        nohistory=_flag(read("NOHISTORY")),
        debug=_flag(read("DEBUG")),
        api_key=read("API_KEY"),
        image_urls=read("IMAGE_URLS"),
        image_cache=_count(read("IMAGE_CACHE"), "IMAGE_CACHE", defaults.image_cache),
        prefix_cache_dir=Path(prefixes).expanduser().absolute() if prefixes else None,
        prefix_cache_size=_count(read("PREFIX_CACHE_SIZE"), "PREFIX_CACHE_SIZE", defaults.prefix_cache_size),
        spare_worker=_flag(read("SPARE_WORKER") or "1"),
        stream_interval=_stream_interval(read("STREAM_INTERVAL"), defaults.stream_interval),
        editor=read("EDITOR"),
        graphics=_choice(read("GRAPHICS"), "GRAPHICS", GRAPHICS),
        draft=read("DRAFT"),
        rpc=_list(read("RPC")),
        upstreams=_list(read("UPSTREAMS")),
        upstream_keys=_upstream_keys(environ),
        upstream_timeout=_duration(read("UPSTREAM_TIMEOUT"), "UPSTREAM_TIMEOUT", defaults.upstream_timeout),
        log_format=_choice(read("LOG"), "LOG", ("text", "json", "off")),
    )


def backend_paths(environ: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """Libraries of INTERNS1_BACKENDS, with the separator of PATH between them.

    No setting of a server: who plans and who computes are processes of their own, and both go by this.
    """
    paths = _list(environ.get("INTERNS1_BACKENDS", ""), os.pathsep)
    return tuple(Path(path).expanduser().absolute() for path in paths)


def _load_options(read: Callable[[str], str]) -> dict[str, Any]:
    """Of the variables that are named as the options are; their values are judged where the options are."""
    whole = {
        "num_batch": read("NUM_BATCH"),
        "num_gpu": read("NUM_GPU"),
        "n_cpu_moe": read("N_CPU_MOE"),
        "main_gpu": read("MAIN_GPU"),
    }
    found: dict[str, Any] = {}
    for name, text in whole.items():
        if text and not text.removeprefix("-").isdigit():
            raise BadRequest(f"INTERNS1_{name.upper()} must be a whole number; it is {text!r}")
        found[name] = int(text) if text else None
    found["split_mode"], found["tensor_split"] = read("SPLIT_MODE") or None, read("TENSOR_SPLIT") or None
    for name, text in (("use_mmap", read("USE_MMAP")), ("use_mlock", read("USE_MLOCK"))):
        found[name] = _flag(text) if text else None
    switches = {
        "flash_attention": read("FLASH_ATTENTION"),
        "backend_sampling": read("BACKEND_SAMPLING"),
        "numa": read("NUMA"),
    }
    for name, text in switches.items():
        found[name] = {"1": True, "true": True, "0": False, "false": False}.get(text.lower(), text) if text else None
    # Commas belong to regular expressions.
    found["override_tensor"] = list(_list(read("OVERRIDE_TENSOR"), ";")) or None
    return {name: value for name, value in found.items() if value is not None}


def parse_host(text: str) -> tuple[str, int]:
    """`host[:port]`, a URL or a bare IPv6 address -> (host, port), by the rules of OLLAMA_HOST."""
    scheme, _, rest = text.rpartition("://")
    fallback = {"http": 80, "https": 443}.get(scheme.lower(), DEFAULT_PORT)
    rest = rest.split("/", 1)[0]
    if rest.count(":") > 1 and not rest.startswith("["):
        rest = f"[{rest}]"
    split = urlsplit(f"//{rest}")
    try:
        port = split.port
    except ValueError:
        port = None
    return split.hostname or "127.0.0.1", fallback if port is None else port


def parse_duration(value: str | float) -> float:
    """Seconds of a Go duration (`5m`, `1h30m`, `500ms`, `0`) or of a number; anything negative is forever (-1)."""
    if isinstance(value, int | float):
        return FOREVER if value < 0 else float(value)
    text = value.strip()
    negative = text.startswith("-")
    body = text.lstrip("+-")
    if body == "0":
        return 0.0
    if body.replace(".", "", 1).isdigit():
        raise BadRequest(f'time: missing unit in duration "{value}"; {_DURATION_HINT}')
    parts = list(_DURATION_PART.finditer(body))
    if not parts or "".join(part.group(0) for part in parts) != body:
        raise BadRequest(f'time: invalid duration "{value}"; {_DURATION_HINT}')
    if negative:
        return FOREVER
    return sum(float(part.group(1)) * _UNIT_SECONDS[part.group(2)] for part in parts)


def _upstream_keys(environ: Mapping[str, str]) -> dict[str, str]:
    """INTERNS1_UPSTREAM_KEY and INTERNS1_UPSTREAM_KEY_<HOST>, by host ("" for all others)."""
    prefix = "INTERNS1_UPSTREAM_KEY"
    named = {name.removeprefix(prefix).removeprefix("_"): text.strip() for name, text in environ.items()
             if name == prefix or name.startswith(f"{prefix}_")}  # fmt: skip
    return {name.upper(): key for name, key in named.items() if key}


def _variable_part(host: str) -> str:
    """A host as a part of a variable's name: gpu-1.lab:8000 -> GPU_1_LAB_8000."""
    return re.sub(r"[^A-Za-z0-9]", "_", host).upper()


def _list(text: str, separator: str = ",") -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(separator) if part.strip())


def _duration(text: str, name: str, default: float) -> float:
    if not text:
        return default
    try:
        # The environment variable, unlike a request, may hold a bare number of seconds.
        return parse_duration(float(text) if re.fullmatch(r"-?\d+(\.\d+)?", text) else text)
    except BadRequest as error:
        raise BadRequest(f"INTERNS1_{name} (or OLLAMA_{name}) is not a duration such as 5m or 1h30m: {error}") from None


def _stream_interval(text: str, default: float) -> float:
    seconds = _duration(text, "STREAM_INTERVAL", default)
    if not 0 <= seconds <= 1:
        raise BadRequest(f"INTERNS1_STREAM_INTERVAL must be between 0 and 1s, such as 30ms; it is {text!r}")
    return seconds


def _count(text: str, name: str, default: int) -> int:
    if not text:
        return default
    if not text.isdigit():
        raise BadRequest(f"INTERNS1_{name} (or OLLAMA_{name}) must be a whole number of 0 or more; it is {text!r}")
    return int(text)


def _choice(text: str, name: str, choices: tuple[str, ...]) -> str:
    if text.lower() not in ("", *choices):
        raise BadRequest(f"INTERNS1_{name} must be one of {', '.join(choices)}; it is {text!r}")
    return text.lower() or choices[0]


def _flag(text: str) -> bool:
    """As Ollama reads booleans: a value that is no boolean counts as true."""
    return bool(text) and text.lower() not in ("0", "f", "false")
