"""Metrics of a service in the format of Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)

CONTENT_TYPE = CONTENT_TYPE_LATEST
_BATCH_SIZE_BUCKETS = tuple(2**power for power in range(11))
_SECONDS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)


class Metrics:
    """The metrics of one service, in its own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self._requests = Counter(
            "unfreeze_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self._latency = Histogram(
            "unfreeze_request_seconds",
            "From the head of a request for predictions to its answer.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self._images = Counter(
            "unfreeze_images", "Images received.", ["outcome"], registry=registry
        )
        self._batches = Histogram(
            "unfreeze_batch_size",
            "Images in a batch.",
            buckets=_BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self._queue = Gauge(
            "unfreeze_queue_images", "Images from decoding to the answer.", registry=registry
        )
        self._decode = Counter(
            "unfreeze_decode_seconds", "Time in decoding, over all threads.", registry=registry
        )
        self._model = Counter("unfreeze_model_seconds", "Time in the model.", registry=registry)
        for outcome in (True, False):  # exported from the start
            self.image(outcome, 0)

    def request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, str(status)).inc()
        if route == "/predict":
            self._latency.observe(seconds)

    def image(self, read: bool, count: int = 1) -> None:
        self._images.labels("answered" if read else "unreadable").inc(count)

    def decoded(self, seconds: float) -> None:
        self._decode.inc(seconds)

    def batch_started(self, images: int) -> None:
        self._batches.observe(images)

    def batch_finished(self, seconds: float) -> None:
        self._model.inc(seconds)

    def watch_queue(self, length: Callable[[], float]) -> None:
        self._queue.set_function(length)

    def text(self) -> bytes:
        """Returns the metrics in Prometheus' text format, of `CONTENT_TYPE`."""
        return generate_latest(self._registry)
