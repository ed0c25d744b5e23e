"""Metrics of a service in the format of Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Summary

_BATCH_SIZE_BUCKETS = tuple(2**power for power in range(11))
_SECONDS_BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
ANSWERED, UNREADABLE = "answered", "unreadable"  # outcomes of images


class Metrics:
    """The metrics of one service, in its own registry."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.requests = Counter(
            "unfreeze_requests", "Requests answered.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "unfreeze_request_seconds",
            "From the head of a request for predictions to its answer.",
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )
        self.images = Counter("unfreeze_images", "Images received.", ["outcome"], registry=registry)
        for outcome in (ANSWERED, UNREADABLE):
            self.images.labels(outcome)  # exported from the start
        self.batch_size = Histogram(
            "unfreeze_batch_size",
            "Images in a batch.",
            buckets=_BATCH_SIZE_BUCKETS,
            registry=registry,
        )
        self.queue = Gauge(
            "unfreeze_queue_images", "Images from decoding to the answer.", registry=registry
        )
        self.decode_seconds = Summary(
            "unfreeze_decode_seconds", "Time in decoding, over all threads.", registry=registry
        )
        self.model_seconds = Summary(
            "unfreeze_model_seconds", "Time in the model.", registry=registry
        )
