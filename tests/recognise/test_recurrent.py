"""A recurrent network has the same maps under lax.scan as with its steps written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from xattr import composites, rules

FEATURES, UNITS, STEPS = 3, 4, 3


def lstm(carry, row, w):
    (h, c), (into, back, bias, _) = carry, w
    i, f, g, o = jnp.split(row @ into + h @ back + bias, 4)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def gru(carry, row, w):
    (h,), (into, back, bias, _) = carry, w
    (z, r, n), (old_z, old_r, old_n) = jnp.split(row @ into + bias, 3), jnp.split(h @ back, 3)
    z, r = jax.nn.sigmoid(z + old_z), jax.nn.sigmoid(r + old_r)
    return ((1 - z) * jnp.tanh(n + r * old_n) + z * h,)


def plain(carry, row, w):
    (h,), (into, back, bias, _) = carry, w
    return (jnp.tanh(row @ into + h @ back + bias),)


CELLS = {"lstm": (lstm, 4, 2), "gru": (gru, 3, 1), "plain": (plain, 1, 1)}


def problem(name, steps=STEPS):
    cell, gates, states = CELLS[name]
    random = np.random.default_rng(0)
    shapes = ((FEATURES, gates * UNITS), (UNITS, gates * UNITS), (gates * UNITS,), (UNITS,))
    w = tuple(jnp.asarray(random.standard_normal(shape)) for shape in shapes)
    return cell, states, w, jnp.asarray(random.standard_normal((steps, FEATURES)))


def scanned(cell, start, x, w, **options):
    def step(carry, row):
        carry = cell(carry, row, w)
        return carry, carry[0]

    last, outputs = lax.scan(step, start, x, **options)
    return jnp.sum(outputs[-1] - 0.5 * outputs[0]) + last[0] @ w[3]


def unrolled(cell, start, x, w, reverse=False, unroll=1):
    carry, outputs = start, []
    for row in x[::-1] if reverse else x:
        carry = cell(carry, row, w)
        outputs.append(carry[0])
    outputs = outputs[::-1] if reverse else outputs
    return jnp.sum(outputs[-1] - 0.5 * outputs[0]) + carry[0] @ w[3]


def by_rule(rule):
    return lambda f, x, args, bias: xattr.lrp(
        f, x, composites.every_layer(rule), bias=bias, args=args
    )


def squared_first(f, x, args, bias):
    composite = composites.compose(
        (composites.first_layer, rules.w_square()), (composites.dense, rules.z_plus())
    )
    return xattr.lrp(f, x, composite, bias=bias, args=args)


METHODS = {
    "zero": by_rule(rules.zero()),
    "epsilon": by_rule(rules.epsilon(0.1)),
    "gamma": by_rule(rules.gamma(0.25)),
    "z_plus": by_rule(rules.z_plus()),
    "alpha_beta": by_rule(rules.alpha_beta(2.0, 1.0)),
    "w_square": squared_first,
}


def equal(found, expected):
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12 * np.abs(expected).max())


@pytest.mark.parametrize("bias", ["include", "exclude"])
@pytest.mark.parametrize("name", CELLS)
def test_a_scan_is_its_unrolled_copy(name, bias, x64):
    """The state is a constant at the first step, also one that is not 0: its product is a bias."""
    cell, states, w, x = problem(name)

    @jax.jit
    def maps(start, w):
        forms = [functools.partial(f, cell, (start,) * states) for f in (scanned, unrolled)]
        return {rule: [run(f, x, (w,), bias) for f in forms] for rule, run in METHODS.items()}

    for start in (0.0, 0.3):
        for found, expected in maps(jnp.full(UNITS, start), w).values():
            equal(found, expected)


@pytest.mark.parametrize("options", [{"reverse": True}, {"unroll": 3}, {"unroll": STEPS}])
def test_loops_of_every_form(options, x64):
    cell, states, w, x = problem("lstm")
    carry = (jnp.full(UNITS, 0.3),) * states
    method = functools.partial(METHODS["gamma"], args=(w,), bias="include")
    maps = [method(functools.partial(f, cell, carry, **options), x) for f in (scanned, unrolled)]
    equal(*maps)


def test_a_loop_of_one_step(x64):
    cell, states, w, x = problem("gru", steps=1)
    carry = (jnp.full(UNITS, 0.3),) * states
    method = functools.partial(METHODS["gamma"], args=(w,), bias="include")
    equal(*(method(functools.partial(f, cell, carry), x) for f in (scanned, unrolled)))


def delayed(carry, row, w):
    """The newest of three states reaches the sum at the third step."""
    a, b, c = carry
    return jnp.tanh(row @ w[0] + a @ w[1] + w[2]), a, b * 1.5 + c


@pytest.mark.parametrize("method", ["gamma", "deep_lift"])
def test_states_that_depend_on_x_at_different_steps(method, x64):
    _, _, w, x = problem("plain")
    carry = (jnp.full(UNITS, 0.3), jnp.full(UNITS, -0.2), jnp.full(UNITS, 0.1))

    def f(loop, x, w):
        if loop:
            (_, _, c), rows = lax.scan(lambda c, row: (delayed(c, row, w), c[1]), carry, x)
        else:
            state, rows = carry, []
            for row in x:
                rows.append(state[1])
                state = delayed(state, row, w)
            c, rows = state[2], jnp.stack(rows)
        return jnp.tanh(c) @ w[3] + jnp.sum(rows**2)

    run = METHODS["gamma"] if method == "gamma" else reveal_cancel
    equal(*(run(functools.partial(f, loop), x, (w,), "include") for loop in (True, False)))


def reveal_cancel(f, x, args, bias):
    return xattr.deep_lift(f, x, variant="reveal_cancel", args=args)


def stopped(carry, row, w):
    """What depends on x but carries no relevance at the first step."""
    h, c = carry
    return jnp.tanh(row @ w[0] + c @ w[1] + w[2]), h


@pytest.mark.parametrize("rule", ["gamma", "alpha_beta"])
def test_a_state_that_carries_no_relevance_at_first(rule, x64):
    _, _, w, x = problem("plain")

    def f(loop, x, w):
        start = lax.stop_gradient(x[0, 0]) * jnp.ones(UNITS)
        return (scanned if loop else unrolled)(stopped, (start, start), x, w)

    equal(
        *(METHODS[rule](functools.partial(f, loop), x, (w,), "include") for loop in (True, False))
    )


@pytest.mark.parametrize("name", ["gru", "plain"])
def test_reveal_cancel(name, x64):
    cell, states, w, x = problem(name)
    carry = (jnp.full(UNITS, 0.3),) * states
    maps = [
        reveal_cancel(functools.partial(f, cell, carry), x, (w,), None) for f in (scanned, unrolled)
    ]
    equal(*maps)
    f = functools.partial(scanned, cell, carry)
    np.testing.assert_allclose(maps[0].sum(), f(x, w) - f(0 * x, w), rtol=1e-9)


def test_under_jit_and_vmap(x64):
    cell, states, w, _ = problem("lstm")
    xs = jnp.asarray(np.random.default_rng(1).standard_normal((3, STEPS, FEATURES)))

    def method(f):
        carry = (jnp.zeros(UNITS),) * states
        one = functools.partial(METHODS["gamma"], functools.partial(f, cell, carry), bias="include")
        return jax.jit(jax.vmap(one, (0, None)))

    equal(method(scanned)(xs, (w,)), method(unrolled)(xs, (w,)))


def test_a_gradient_through_the_first_step(x64):
    cell, states, w, x = problem("plain")
    carry = (jnp.full(UNITS, 0.3),) * states

    def total(f, w):
        maps = METHODS["gamma"](functools.partial(f, cell, carry), x, (w,), "include")
        return jnp.sum(maps**2)

    slopes = [jax.grad(functools.partial(total, f))(w) for f in (scanned, unrolled)]
    for found, expected in zip(*slopes, strict=True):
        equal(found, expected)
