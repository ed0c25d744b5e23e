"""Optimizers: one and two steps against the published formulas in NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from engine.core.call_syntax import Call
from engine.core.recipe import Phase
from engine.optim import optimizers
from engine.optim.optimizers import OPTIMIZERS, SOLVER

RATE = 0.1
KERNEL = np.array([[1.0, -2.0], [0.5, 3.0]], np.float32)
BIAS = np.array([1.0, -1.0], np.float32)
GRADIENTS = [
    (np.array([[0.3, -0.4], [1.2, 0.0]], np.float32), np.array([0.5, -2.0], np.float32)),
    (np.array([[-0.1, 0.2], [0.7, 0.9]], np.float32), np.array([0.1, 0.6], np.float32)),
]


def adam(gradients, b1=0.8, b2=0.95, eps=1e-3):
    """Kingma and Ba, 2015, algorithm 1 in the form before section 2.1: epsilon added to sqrt(v)."""
    m = v = 0.0
    for t, g in enumerate(gradients, 1):
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        yield np.sqrt(1 - b2**t) / (1 - b1**t) * m / (np.sqrt(v) + eps)


def sgd(gradients, momentum=0.9):
    velocity = 0.0
    for g in gradients:
        velocity = momentum * velocity + g
        yield velocity


def rmsprop(gradients, rho=0.8, momentum=0.5, eps=1e-3):
    """Hinton's lecture 6e, with momentum on the scaled gradient."""
    mean = velocity = 0.0
    for g in gradients:
        mean = rho * mean + (1 - rho) * g**2
        velocity = momentum * velocity + g / np.sqrt(mean + eps)
        yield velocity


def lion(gradients, b1=0.8, b2=0.95):
    """Chen et al., "Symbolic Discovery of Optimization Algorithms", 2023, algorithm 2."""
    m = 0.0
    for g in gradients:
        yield np.sign(b1 * m + (1 - b1) * g)
        m = b2 * m + (1 - b2) * g


BETAS = {"beta_1": 0.8, "beta_2": 0.95}
EXPECTED = {
    "sgd": ({"momentum": 0.9}, sgd),
    "rmsprop": ({"rho": 0.8, "momentum": 0.5, "epsilon": 1e-3}, rmsprop),
    "adam": ({**BETAS, "epsilon": 1e-3}, adam),
    "adamw": ({**BETAS, "epsilon": 1e-3}, adam),
    "lion": (BETAS, lion),
}
assert EXPECTED.keys() == OPTIMIZERS.keys() - {SOLVER}, "the solver takes no steps"


def stepped(name, options, steps=2, scale_loss=False, gradients=GRADIENTS, factors=None, **phase):
    """The optimizer, and kernel and bias after some steps."""
    variables = [keras.Variable(KERNEL, name="kernel"), keras.Variable(BIAS, name="bias")]
    trained = Phase("p", optimizer=name, learning_rate=RATE, **phase)
    optimizer = optimizers.build(trained, options, variables, scale_loss, factors)
    for pair in gradients[:steps]:
        optimizer.apply([tf.constant(gradient) for gradient in pair], variables)
    return optimizer, *(variable.numpy() for variable in variables)


def by_hand(name, start, gradients, decay=0.0, rate=RATE):
    """The formula's steps, with decoupled weight decay: Loshchilov and Hutter, 2019."""
    value = start.astype(np.float64)
    for update in EXPECTED[name][1](np.array(gradients, np.float64)):
        value = value - rate * decay * value - rate * update
    return value


@pytest.mark.parametrize("decay", [None, 0.2], ids=["plain", "decay"])
@pytest.mark.parametrize("name", EXPECTED)
def test_two_steps_follow_the_formula(name, decay):
    """Weight decay spares the bias; AdamW has one of 0.01 where the phase names none."""
    _, kernel, bias = stepped(name, EXPECTED[name][0], weight_decay=decay)
    of_kernel = decay or (0.01 if name == "adamw" else 0.0)
    kernels, biases = zip(*GRADIENTS, strict=True)
    np.testing.assert_allclose(kernel, by_hand(name, KERNEL, kernels, of_kernel), rtol=1e-5)
    np.testing.assert_allclose(bias, by_hand(name, BIAS, biases), rtol=1e-5)


@pytest.mark.parametrize("scale_loss", [False, True])
@pytest.mark.parametrize("name", EXPECTED)
def test_rate_factors_scale_updates_and_weight_decay(name, scale_loss):
    scale = 2.0**15 if scale_loss else 1.0  # Keras' first scale
    scaled = [tuple(scale * gradient for gradient in pair) for pair in GRADIENTS]
    _, kernel, bias = stepped(
        name, EXPECTED[name][0], 2, scale_loss, scaled, (0.5, 0.1), weight_decay=0.2
    )
    kernels, biases = zip(*GRADIENTS, strict=True)
    expected = by_hand(name, KERNEL, kernels, 0.2, 0.5 * RATE)
    np.testing.assert_allclose(kernel, expected, rtol=1e-5)
    np.testing.assert_allclose(bias, by_hand(name, BIAS, biases, rate=0.1 * RATE), rtol=1e-5)


@pytest.mark.parametrize("name", EXPECTED)
def test_rate_factors_of_one_change_no_bit(name):
    plain = stepped(name, EXPECTED[name][0], weight_decay=0.2, clip_global_norm=1.0)[1:]
    ones = stepped(
        name, EXPECTED[name][0], factors=(1.0, 1.0), weight_decay=0.2, clip_global_norm=1.0
    )[1:]
    assert all(np.array_equal(a, b) for a, b in zip(plain, ones, strict=True))


@pytest.mark.parametrize("scale_loss", [False, True])
def test_ema_follows_every_step_and_its_warmup(scale_loss):
    """From the first weights, with decays of 1 / 10 and of 0.15, which is below 2 / 11."""
    scale = 2.0**15 if scale_loss else 1.0
    scaled = [tuple(scale * gradient for gradient in pair) for pair in GRADIENTS]
    average, expected = Call("ema", (0.15,)), KERNEL.astype(np.float64)
    for steps, decay in ((1, 0.1), (2, 0.15)):
        optimizer, kernel, _ = stepped("adam", {}, steps, scale_loss, scaled, average=average)
        expected = decay * expected + (1 - decay) * kernel
        averages = getattr(optimizer, "inner_optimizer", optimizer).averages
        np.testing.assert_allclose(averages[0].numpy(), expected, rtol=1e-6)


def test_adamw_with_a_decay_of_zero_does_not_decay():
    _, kernel, _ = stepped("adamw", EXPECTED["adamw"][0], weight_decay=0.0)
    kernels = [kernel for kernel, _ in GRADIENTS]
    np.testing.assert_allclose(kernel, by_hand("adamw", KERNEL, kernels), rtol=1e-5)


def test_nesterov_step_follows_its_formula():
    """Sutskever et al., 2013: the step goes along momentum * velocity + gradient."""
    _, kernel, _ = stepped("sgd", {"momentum": 0.9, "nesterov": True}, steps=1)
    np.testing.assert_allclose(kernel, KERNEL - RATE * 1.9 * GRADIENTS[0][0], rtol=1e-6)


@pytest.mark.parametrize(("clip_global_norm", "divisor"), [(1.0, 5), (100.0, 1)])
@pytest.mark.parametrize("scale_loss", [False, True])
def test_global_norm_of_all_gradients_is_clipped(scale_loss, clip_global_norm, divisor):
    gradients = (np.array([[3.0, 0.0], [0.0, 0.0]], np.float32), np.array([0.0, 4.0], np.float32))
    scale = 2.0**15 if scale_loss else 1.0  # Keras' first scale
    scaled = [tuple(scale * gradient for gradient in gradients)]
    _, *new = stepped("sgd", {}, 1, scale_loss, scaled, clip_global_norm=clip_global_norm)
    for old, value, gradient in zip((KERNEL, BIAS), new, gradients, strict=True):
        np.testing.assert_allclose(old - value, RATE * gradient / divisor, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", EXPECTED)
def test_float16_overflow_is_skipped_and_halves_the_scale(name):
    optimizer, *_ = stepped(name, {}, steps=0, scale_loss=True)
    assert float(optimizer.scale_loss(tf.constant(2.0))) == 2.0 * 2.0**15
    overflow = [(np.full_like(KERNEL, np.inf), np.zeros_like(BIAS))]
    optimizer, kernel, bias = stepped(name, {}, 1, True, overflow)
    np.testing.assert_array_equal(kernel, KERNEL)
    np.testing.assert_array_equal(bias, BIAS)
    assert int(optimizer.inner_optimizer.iterations) == 0
    assert float(optimizer.scale_loss(tf.constant(1.0))) == 2.0**14


@pytest.mark.parametrize("name", EXPECTED)
def test_scaled_gradients_give_the_same_step(name):
    """Powers of two scale without rounding."""
    plain = stepped(name, EXPECTED[name][0], 1)[1:]
    scaled = [tuple(2.0**15 * gradient for gradient in GRADIENTS[0])]
    again = stepped(name, EXPECTED[name][0], 1, True, scaled)[1:]
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_array_equal(a, b)
