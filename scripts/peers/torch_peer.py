"""PyTorch on the CPU, float64: `torch.optim` as everybody uses it, and a step of tensors through `torch.compile`."""

from __future__ import annotations

import numpy as np
import torch

from peers import Task

NAMES = ("torch.optim", "torch.compile")

_AT_ONCE = 8
"""Steps of one compiled graph: a call costs tens of microseconds."""


def _optim(task: Task, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    h = torch.from_numpy(task.h)
    sigma = torch.sqrt(h / task.batch)
    start = torch.randn(task.trajectories, task.dim, dtype=torch.float64)
    thetas = [start.clone() for _ in task.rates]
    groups = [{"params": [theta], "lr": lr} for theta, lr in zip(thetas, task.rates, strict=True)]
    if task.kind == "heavy ball":
        optimizer = torch.optim.SGD(groups, momentum=0.9, fused=True)
    else:
        optimizer = torch.optim.Adam(groups, betas=(0.9, 0.999), eps=1e-8, fused=True)
    for theta in thetas:
        theta.grad = torch.empty_like(theta)
    z = torch.empty_like(start)
    with torch.no_grad():
        for _ in range(task.steps):
            z.normal_()
            z *= sigma
            for theta in thetas:
                torch.addcmul(z, h, theta, out=theta.grad)
            optimizer.step()
    return np.stack([(0.5 * (h * theta**2).sum(-1)).numpy() for theta in thetas])


def _steps_heavy_ball(h, sigma, lr, theta, m):
    for _ in range(_AT_ONCE):
        z = torch.randn(theta.shape[1:], dtype=theta.dtype)
        m = 0.9 * m + (h * theta + sigma * z)
        theta = theta - lr * m
    return theta, m


def _steps_adam(h, sigma, lr, theta, m, v, root, correction):
    for k in range(_AT_ONCE):
        z = torch.randn(theta.shape[1:], dtype=theta.dtype)
        g = h * theta + sigma * z
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        theta = theta - lr * (root[k] / correction[k]) * m / (torch.sqrt(v) + 1e-8 * root[k])
    return theta, m, v


_compiled: dict[str, object] = {}


def _compile(task: Task, seed: int) -> np.ndarray:
    torch.manual_seed(seed)
    h = torch.from_numpy(task.h)
    sigma = torch.sqrt(h / task.batch)
    lr = torch.tensor(task.rates, dtype=torch.float64)[:, None, None]
    start = torch.randn(task.trajectories, task.dim, dtype=torch.float64)
    theta = start.expand(len(task.rates), -1, -1).clone()
    m, v = torch.zeros_like(theta), torch.zeros_like(theta)
    key = f"{task.kind} {theta.shape}"
    if key not in _compiled:
        _compiled[key] = torch.compile(_steps_heavy_ball if task.kind == "heavy ball" else _steps_adam, dynamic=False)
    step = _compiled[key]
    t = torch.arange(1, task.steps + 1, dtype=torch.float64)
    root, correction = torch.sqrt(1 - 0.999**t), 1 - 0.9**t
    with torch.no_grad():
        for k in range(0, task.steps, _AT_ONCE):
            if task.kind == "heavy ball":
                theta, m = step(h, sigma, lr, theta, m)
            else:
                now = slice(k, k + _AT_ONCE)
                theta, m, v = step(h, sigma, lr, theta, m, v, root[now], correction[now])
    return (0.5 * (h * theta**2).sum(-1)).numpy()


def make(name: str, task: Task, threads: int):
    torch.set_num_threads(threads)
    return lambda seed: (_optim if name == NAMES[0] else _compile)(task, seed)
