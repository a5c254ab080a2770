"""Optimizers with their options as they are published, in plain NumPy: the oracle of ``test_published_forms``.

Each is a generator that is sent gradients and yields ``(point of the next gradient, iterate whose loss counts)``, the
start first. `now` gives the hyperparameters of step t = 0, 1, ... as a dict. Orders of operations are those of
``torch.optim`` (its single-tensor functions), of optax where torch has no such optimizer, and of Keras for its ε̂.
"""

from __future__ import annotations

import numpy as np


def sgd(theta, now):
    """``torch.optim.SGD``: the first buffer is the gradient itself."""
    g, t, buffer = (yield theta, theta), 0, None
    while True:
        p = now(t)
        g = g + p["weight_decay"] * theta
        if p["momentum"] != 0:
            buffer = g if buffer is None else p["momentum"] * buffer + (1 - p["dampening"]) * g
            g = g + p["momentum"] * buffer if p["nesterov"] else buffer
        theta = theta - p["lr"] * g
        g, t = (yield theta, theta), t + 1


def adam(theta, now):
    """``torch.optim.AdamW`` with optax's ``eps_root``, Keras's ε̂, and corrections by present or by all betas."""
    g, t, m, v = (yield theta, theta), 0, np.zeros_like(theta), np.zeros_like(theta)
    product1 = product2 = 1.0
    while True:
        p = now(t)
        t += 1
        product1, product2 = product1 * p["beta1"], product2 * p["beta2"]
        power1, power2 = (p["beta1"] ** t, p["beta2"] ** t) if p["present_betas"] else (product1, product2)
        theta = theta * (1 - p["lr"] * p["weight_decay"])
        m = p["beta1"] * m + (1 - p["beta1"]) * g
        v = p["beta2"] * v + (1 - p["beta2"]) * g**2
        if p["eps_hat"]:
            alpha = p["lr"] * np.sqrt(1 - power2) / (1 - power1)
            theta = theta - alpha * m / (np.sqrt(v + p["eps_root"]) + p["eps"])
        else:
            m_hat, v_hat = m / (1 - power1), v / (1 - power2)
            theta = theta - p["lr"] * m_hat / (np.sqrt(v_hat + p["eps_root"]) + p["eps"])
        g = yield theta, theta


def rmsprop(theta, now):
    """``torch.optim.RMSprop`` with optax's ε inside the root."""
    g, t, v, n, buffer = (yield theta, theta), 0, *np.zeros((3, *theta.shape))
    while True:
        p = now(t)
        v = p["alpha"] * v + (1 - p["alpha"]) * g**2
        n = p["alpha"] * n + (1 - p["alpha"]) * g
        spread = v - n**2 if p["centered"] else v
        direction = g / (np.sqrt(spread + p["eps_root"]) + p["eps"])
        buffer = p["momentum"] * buffer + direction
        theta = theta - p["lr"] * buffer
        g, t = (yield theta, theta), t + 1


def nadam(theta, now):
    """``torch.optim.NAdam`` with decoupled weight decay."""
    g, step, m, v, mu_product = (yield theta, theta), 0, np.zeros_like(theta), np.zeros_like(theta), 1.0
    while True:
        p = now(step)
        step += 1
        theta = theta * (1 - p["lr"] * p["weight_decay"])
        mu = p["beta1"] * (1 - 0.5 * 0.96 ** (step * p["momentum_decay"]))
        mu_next = p["beta1"] * (1 - 0.5 * 0.96 ** ((step + 1) * p["momentum_decay"]))
        mu_product *= mu
        m = p["beta1"] * m + (1 - p["beta1"]) * g
        v = p["beta2"] * v + (1 - p["beta2"]) * g**2
        denominator = np.sqrt(v / (1 - p["beta2"] ** step)) + p["eps"]
        theta = theta - p["lr"] * (1 - mu) / (1 - mu_product) * g / denominator
        theta = theta - p["lr"] * mu_next / (1 - mu_product * mu_next) * m / denominator
        g = yield theta, theta


def ademamix(theta, now):
    """``optax.contrib.ademamix``."""
    g, t, m, n, v = (yield theta, theta), 0, *np.zeros((3, *theta.shape))
    while True:
        p = now(t)
        t += 1
        m = p["beta1"] * m + (1 - p["beta1"]) * g
        n = p["beta3"] * n + (1 - p["beta3"]) * g
        v = p["beta2"] * v + (1 - p["beta2"]) * g**2
        m_hat, v_hat = m / (1 - p["beta1"] ** t), v / (1 - p["beta2"] ** t)
        update = (m_hat + p["alpha"] * n) / (np.sqrt(v_hat) + p["eps"])
        theta = theta - p["lr"] * (update + p["weight_decay"] * theta)
        g = yield theta, theta


def lion(theta, now):
    """Chen et al. 2023, Algorithm 2."""
    g, t, m = (yield theta, theta), 0, np.zeros_like(theta)
    while True:
        p = now(t)
        direction = np.sign(p["beta1"] * m + (1 - p["beta1"]) * g)
        theta = theta - p["lr"] * (direction + p["weight_decay"] * theta)
        m = p["beta2"] * m + (1 - p["beta2"]) * g
        g, t = (yield theta, theta), t + 1


def signum(theta, now):
    """``optax.signum`` with decoupled weight decay."""
    g, t, m = (yield theta, theta), 0, np.zeros_like(theta)
    while True:
        p = now(t)
        m = p["momentum"] * m + (1 - p["momentum"]) * g
        theta = theta - p["lr"] * (np.sign(m) + p["weight_decay"] * theta)
        g, t = (yield theta, theta), t + 1


def schedule_free_sgd(theta, now):
    """Defazio et al. 2024, Algorithm 1, weights as in the authors' code: the square of the largest rate so far."""
    y = x = z = theta
    g, t, largest, total = (yield y, x), 0, 0.0, 0.0
    while True:
        p = now(t)
        largest = max(largest, p["lr"])
        total += largest**2
        z = z - p["lr"] * (g + p["weight_decay"] * y)
        x = (1 - largest**2 / total) * x + largest**2 / total * z
        y = (1 - p["momentum"]) * z + p["momentum"] * x
        g, t = (yield y, x), t + 1


def schedule_free_adam(theta, now):
    """The same with Adam's denominator."""
    y = x = z = theta
    g, t, v, largest, total = (yield y, x), 0, np.zeros_like(theta), 0.0, 0.0
    while True:
        p = now(t)
        t += 1
        largest = max(largest, p["lr"])
        total += largest**2
        v = p["beta2"] * v + (1 - p["beta2"]) * g**2
        normalized = g / (np.sqrt(v / (1 - p["beta2"] ** t)) + p["eps"])
        z = z - p["lr"] * (normalized + p["weight_decay"] * y)
        x = (1 - largest**2 / total) * x + largest**2 / total * z
        y = (1 - p["beta1"]) * z + p["beta1"] * x
        g = yield y, x


FORMS = {
    "SGD": sgd,
    "Adam": adam,
    "RMSProp": rmsprop,
    "NAdam": nadam,
    "AdEMAMix": ademamix,
    "Lion": lion,
    "Signum": signum,
    "ScheduleFreeSGD": schedule_free_sgd,
    "ScheduleFreeAdam": schedule_free_adam,
}
"""By the name of the class."""


def path(form, theta, gradient, steps, now):
    """Iterates after 0, 1, ... steps; ``gradient(t, point)``."""
    run = form(theta, now)
    point, iterate = next(run)
    found = [iterate]
    for t in range(steps):
        point, iterate = run.send(gradient(t, point))
        found.append(iterate)
    return np.stack(found)
