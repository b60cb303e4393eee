"""Every Prometheus collector, in vLLM's names; the registry is passed in."""

from collections.abc import Callable, Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from vllm_mlx.core.card import EngineStatus

LABEL = "model_name"
# fmt: off
FIRST_TOKEN_SECONDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)
TOKEN_SECONDS = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)
REQUEST_SECONDS = (
    0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0,
    120.0, 240.0, 480.0, 960.0, 1920.0, 7680.0,
)
# fmt: on


class AnswerMetrics:
    """What the API sees of answers. ``model_name`` is asked once, when the first answer begins."""

    def __init__(self, registry: CollectorRegistry, model_name: Callable[[], str]) -> None:
        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(name, meaning, [LABEL], buckets=buckets, registry=registry)

        self._model_name = model_name
        self._bound: _Bound | None = None
        self._first_token = histogram(
            "vllm:time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            FIRST_TOKEN_SECONDS,
        )
        self._inter_token = histogram(
            "vllm:inter_token_latency_seconds",
            "Between two tokens of one choice, as the API sees them.",
            TOKEN_SECONDS,
        )
        self._per_output_token = histogram(
            "vllm:request_time_per_output_token_seconds",
            "Mean over the tokens of one request after its first.",
            TOKEN_SECONDS,
        )
        self._request = histogram(
            "vllm:e2e_request_latency_seconds",
            "From the arrival of a request to its last token.",
            REQUEST_SECONDS,
        )
        self._success = Counter(
            "vllm:request_success",
            "Choices that ended, by reason.",
            [LABEL, "finished_reason"],
            registry=registry,
        )

    def first_token(self, seconds: float) -> None:
        self._now().first_token.observe(seconds)

    def tokens(self, count: int, seconds: float) -> None:
        """``count`` tokens of one choice came ``seconds`` after the token before them."""
        observe = self._now().inter_token.observe
        for _ in range(count):
            observe(seconds / count)

    def finished(
        self,
        reasons: Iterable[str],
        seconds: float,
        completion_tokens: int,
        first_token_seconds: float | None,
    ) -> None:
        """A request is over: one reason per choice."""
        bound = self._now()
        bound.request.observe(seconds)
        if first_token_seconds is not None and completion_tokens > 1:
            later = (seconds - first_token_seconds) / (completion_tokens - 1)
            bound.per_output_token.observe(max(0.0, later))
        for reason in reasons:
            self._success.labels(bound.model_name, reason).inc()

    def _now(self) -> "_Bound":
        """Children bound to the model's name: looking labels up for each token would cost more."""
        if self._bound is None:
            name = self._model_name()
            self._bound = _Bound(
                name,
                self._first_token.labels(name),
                self._inter_token.labels(name),
                self._per_output_token.labels(name),
                self._request.labels(name),
            )
        return self._bound


class _Bound:
    def __init__(
        self,
        model_name: str,
        first_token: Histogram,
        inter_token: Histogram,
        per_output_token: Histogram,
        request: Histogram,
    ) -> None:
        self.model_name = model_name
        self.first_token, self.inter_token = first_token, inter_token
        self.per_output_token, self.request = per_output_token, request


class EngineCollector(Collector):
    """The engine's own numbers, read from its status when somebody scrapes."""

    def __init__(self, status: Callable[[], EngineStatus], model_name: Callable[[], str]) -> None:
        self._status, self._model_name = status, model_name

    def describe(self) -> Iterable[Metric]:
        """Nothing: registering must not ask an engine that has not started."""
        return ()

    def collect(self) -> Iterable[Metric]:
        status, label = self._status(), [self._model_name()]
        capacity = status.kv_capacity_tokens
        used = status.kv_used_tokens / capacity if capacity else 0.0
        gauges = (
            ("vllm:num_requests_running", "Sequences in the batch.", status.running),
            ("vllm:num_requests_waiting", "Sequences in the queue.", status.waiting),
            ("vllm:kv_cache_usage_perc", "KV tokens held, 1 is all the budget allows.", used),
            ("vllm_mlx:kv_allocated_bytes", "Bytes of KV slabs.", status.kv_allocated_bytes),
        )
        for name, meaning, value in gauges:
            gauge = GaugeMetricFamily(name, meaning, labels=[LABEL])
            gauge.add_metric(label, value)
            yield gauge
        counters = (
            ("vllm:prompt_tokens", "Prompt tokens, as billed.", status.prompt_tokens_total),
            ("vllm:generation_tokens", "Tokens sampled.", status.completion_tokens_total),
            ("vllm:num_preemptions", "Sequences sent back to the queue.", status.preemptions),
            ("vllm_mlx:engine_steps", "Turns of the engine loop.", status.steps),
        )
        for name, meaning, value in counters:
            counter = CounterMetricFamily(name, meaning, labels=[LABEL])
            counter.add_metric(label, value)
            yield counter
