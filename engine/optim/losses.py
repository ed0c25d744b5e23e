"""The loss: softmax cross entropy with label smoothing, in float32."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf


def cross_entropy(labels: tf.Tensor, logits: tf.Tensor, smoothing: float = 0.0) -> tf.Tensor:
    """Computes -sum over classes of q log softmax(logits), with q = (1 - s) one_hot + s / classes.

    Args:
      labels: int32 [B].
      logits: float32 [B, classes].
      smoothing: s, 0 up to 1; Szegedy et al., "Rethinking the Inception Architecture", 2016,
        section 7.

    Returns:
      float32 [B].
    """
    classes = logits.shape[-1]
    off_value = smoothing / classes
    on_value = 1 - smoothing + off_value
    targets = tf.one_hot(labels, classes, on_value, off_value)
    return tf.nn.softmax_cross_entropy_with_logits(targets, logits)


def class_weights(policy: str, counts: Sequence[int]) -> list[float]:
    """Returns a weight for each class: 1 for `none`; examples / (classes x count) for `balanced`.

    `balanced` is scikit-learn's rule, whose mean over the examples is 1.
    """
    if policy == "none":
        return [1.0] * len(counts)
    return [sum(counts) / (len(counts) * count) for count in counts]
