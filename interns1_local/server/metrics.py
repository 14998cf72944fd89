"""GET /metrics for Prometheus, and GET /healthz."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Scope

from interns1_local.chat.events import Usage
from interns1_local.runners.model_scheduler import ModelScheduler

_SECONDS = (0.005, 0.02, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """The counters of one application, in a registry of its own."""

    def __init__(self, scheduler: ModelScheduler) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Models(scheduler))
        labels = ("method", "path", "status")
        self._requests = Counter("interns1_http_requests", "Requests answered.", labels, registry=self.registry)
        self._seconds = Histogram(
            "interns1_http_request_seconds",
            "Time to the end of an answer, in seconds.",
            ("path",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._tokens = Counter(
            "interns1_tokens",
            "Tokens by kind: prompt (cached ones among them), cached, output, drafted ahead, accepted of these.",
            ("model", "kind"),
            registry=self.registry,
        )
        self._decode = Counter(
            "interns1_decode_seconds", "Time spent on output tokens, in seconds.", ("model",), registry=self.registry
        )

    def observe_request(self, method: str, path: str, status: int, seconds: float) -> None:
        self._requests.labels(method, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def observe_usage(self, model: str, usage: Usage) -> None:
        for kind in ("prompt", "cached", "output", "drafted", "accepted"):
            self._tokens.labels(model, kind).inc(getattr(usage, f"{kind}_tokens"))
        self._decode.labels(model).inc(usage.decode_ns / 1e9)


class _Models(Collector):
    """Figures that are read when they are asked for."""

    def __init__(self, scheduler: ModelScheduler) -> None:
        self._scheduler = scheduler

    def collect(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily("interns1_model_bytes", "Memory of each loaded model.", labels=("model",))
        for model in self._scheduler.loaded():
            memory.add_metric((model.name,), model.size)
        yield memory
        yield GaugeMetricFamily(
            "interns1_pending_requests", "Requests that wait for a model.", value=self._scheduler.pending
        )


def route_path(scope: Scope) -> str:
    """The pattern of the route that answered, so that names in paths do not make a series each."""
    endpoint = scope.get("endpoint")
    routes = getattr(scope.get("app"), "routes", ())
    return next((route.path for route in routes if getattr(route, "endpoint", None) is endpoint), "other")


async def metrics(request: Request) -> Response:
    registry = request.app.state.metrics.registry
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


async def healthz(request: Request) -> Response:
    """200 as long as the server answers; models have errors of their own."""
    return PlainTextResponse("ok\n")
