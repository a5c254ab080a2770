"""The optimizers as their published definitions state them, in plain NumPy: the oracle for the kernels.

`sgd`, `adam` and `rmsprop` follow the pseudo-code in the documentation of ``torch.optim.SGD``, ``AdamW`` (with weight
decay 0: ``Adam``) and ``RMSprop``, line by line and in its order of operations; `lion` follows Algorithm 2 of Chen et
al. 2023. A gradient function is called with (t, theta) for t = 0, 1, ... and the whole path is returned.
"""

from __future__ import annotations

import numpy as np


def sgd(theta, gradient, steps, *, lr, momentum=0.0, nesterov=False, scale=1.0):
    path, buffer = [theta.copy()], None
    for t in range(steps):
        g = gradient(t, theta)
        if momentum != 0:
            buffer = g.copy() if buffer is None else momentum * buffer + g
            g = g + momentum * buffer if nesterov else buffer
        theta = theta - lr * scale * g
        path.append(theta.copy())
    return np.stack(path)


def adam(theta, gradient, steps, *, lr, beta1=0.9, beta2=0.999, eps=1e-8, weight_decay=0.0, bias_correction=True):
    path, m, v = [theta.copy()], np.zeros_like(theta), np.zeros_like(theta)
    for t in range(1, steps + 1):
        g = gradient(t - 1, theta)
        theta = theta - lr * weight_decay * theta
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat = m / (1 - beta1**t) if bias_correction else m
        v_hat = v / (1 - beta2**t) if bias_correction else v
        theta = theta - lr * m_hat / (np.sqrt(v_hat) + eps)
        path.append(theta.copy())
    return np.stack(path)


def rmsprop(theta, gradient, steps, *, lr, alpha=0.99, eps=1e-8):
    path, v = [theta.copy()], np.zeros_like(theta)
    for t in range(steps):
        g = gradient(t, theta)
        v = alpha * v + (1 - alpha) * g**2
        theta = theta - lr * g / (np.sqrt(v) + eps)
        path.append(theta.copy())
    return np.stack(path)


def lion(theta, gradient, steps, *, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
    path, m = [theta.copy()], np.zeros_like(theta)
    for t in range(steps):
        g = gradient(t, theta)
        c = beta1 * m + (1 - beta1) * g
        theta = theta - lr * (np.sign(c) + weight_decay * theta)
        m = beta2 * m + (1 - beta2) * g
        path.append(theta.copy())
    return np.stack(path)
