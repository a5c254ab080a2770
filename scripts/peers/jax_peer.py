"""JAX on the CPU, float64: a `lax.scan` over steps, vmapped over settings, with each fast generator; and with optax."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from peers import Task

jax.config.update("jax_enable_x64", True)

NAMES = ("JAX, threefry", "JAX, rbg", "JAX, unsafe_rbg", "optax, rbg")


def _update(task: Task):
    """State at the start, and one step of it from a gradient, for one setting."""
    if task.kind == "heavy ball":

        def step(lr, t, g, theta, m):
            m = 0.9 * m + g
            return theta - lr * m, m

        return lambda theta: (jnp.zeros_like(theta),), step

    def step(lr, t, g, theta, m, v):
        m = 0.9 * m + 0.1 * g
        v = 0.999 * v + 0.001 * g * g
        root = jnp.sqrt(1 - 0.999**t)
        return theta - lr * (root / (1 - 0.9**t)) * m / (jnp.sqrt(v) + 1e-8 * root), m, v

    return lambda theta: (jnp.zeros_like(theta), jnp.zeros_like(theta)), step


def _update_optax(task: Task):
    import optax  # noqa: PLC0415 - JAX may be there without it

    def transform(lr):
        return optax.sgd(lr, momentum=0.9) if task.kind == "heavy ball" else optax.adam(lr, 0.9, 0.999, 1e-8)

    def step(lr, t, g, theta, state):
        change, state = transform(lr).update(g, state)
        return optax.apply_updates(theta, change), state

    return lambda theta: (transform(0.1).init(theta),), step


def make(name: str, task: Task, threads: int):
    impl = {"JAX, threefry": "threefry2x32", "JAX, unsafe_rbg": "unsafe_rbg"}.get(name, "rbg")
    init, update = (_update_optax if name.startswith("optax") else _update)(task)
    h = jnp.asarray(task.h)
    sigma = jnp.sqrt(h / task.batch)
    shape = (task.trajectories, task.dim)

    @jax.jit
    def run(key, rates):
        first, rest = jax.random.split(key)
        start = jax.random.normal(first, shape)
        theta = jnp.broadcast_to(start, (rates.size, *shape))

        def body(carry, t):
            theta, state = carry
            z = sigma * jax.random.normal(jax.random.fold_in(rest, t), shape)  # shared by all settings

            def one(lr, theta, state):
                theta, *state = update(lr, t + 1.0, h * theta + z, theta, *state)
                return theta, tuple(state)

            return jax.vmap(one)(rates, theta, state), None

        (theta, _), _ = jax.lax.scan(body, (theta, jax.vmap(init)(theta)), jnp.arange(task.steps))
        return 0.5 * (h * theta**2).sum(-1)

    rates = jnp.asarray(task.rates)
    return lambda seed: np.asarray(run(jax.random.key(seed, impl=impl), rates))
