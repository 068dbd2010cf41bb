"""Programs that another version of JAX would write otherwise: the reader is broken on purpose."""

import importlib.metadata
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import xattr
from xattr._program import jaxpr, running, versions

SENTENCE = (
    rf"cannot read the program that JAX {jax.__version__} traced \(.*\): it is tested with JAX "
    r"0\.10\.0 to 0\.12; install a JAX of that range, or a newer xattr-jax"
)


def recurrent():
    """A new network, which no cache knows: a product, a loop, max-pooling."""

    def f(x, w):
        step = lambda h, row: (jax.nn.relu(h @ w + row), jnp.max(h))
        with jax.named_scope("hidden"):
            rows = x @ w + 1
        h, largest = lax.scan(step, jnp.ones(4), rows)
        pooled = lax.reduce_window(h, -jnp.inf, lax.max, (2,), (2,), "VALID")
        return jnp.sum(pooled) + jnp.sum(largest)

    return f


X = jnp.linspace(-1.0, 1.0, 12).reshape(3, 4)
ARGS = (jnp.linspace(-0.5, 1.0, 16).reshape(4, 4),)


def no_parameter(scan):
    return scan.params["renamed"]


def rename_scan(monkeypatch):
    monkeypatch.setattr(jaxpr.p, "missing", ["scan_p"])
    monkeypatch.setattr(jaxpr.p, "found", jaxpr.p.found - {jaxpr.p.scan_p})


def rename_window(monkeypatch):
    class Params(versions.Params):
        def __init__(self, params):
            super().__init__((k, v) for k, v in params.items() if k != "window_dimensions")

    monkeypatch.setattr(versions, "Params", Params)


BREAKS = {
    "parameters of a scan": lambda patch: patch.setattr(jaxpr, "scan_counts", no_parameter),
    "the body of a call": lambda patch: patch.setattr(jaxpr, "_body_of", no_parameter),
    "how an operation is run": lambda patch: patch.setattr(running, "_bound", no_parameter),
    "the name of a primitive": rename_scan,
    "a parameter of max-pooling": rename_window,  # which no rule reads
}


GRADIENTS = {
    "gradient": lambda f: xattr.gradient(f, X, args=ARGS),
    "integrated_gradients": lambda f: xattr.integrated_gradients(f, X, args=ARGS),
    "aumann_shapley": lambda f: xattr.aumann_shapley(f, X, args=ARGS),
    "path_integral": lambda f: xattr.path_integral(f, lambda a: a**2 * X, args=ARGS),
    "smooth_grad": lambda f: xattr.smooth_grad(
        f, X, jax.random.key(0), method=xattr.gradient, num_samples=4, args=ARGS
    ),
    "in jit": lambda f: jax.jit(lambda x: xattr.integrated_gradients(f, x, args=ARGS))(X),
}
RULES = {
    "lrp": lambda f: xattr.lrp(f, X, args=ARGS),
    "deep_lift": lambda f: xattr.deep_lift(f, X, args=ARGS),
    "guided_backprop": lambda f: xattr.guided_backprop(f, X, args=ARGS),
    "explain": lambda f: xattr.explain(f, X, args=ARGS),
    "to_layer": lambda f: xattr.at_layer(f, "hidden")[0](X, *ARGS),
}


@pytest.fixture(scope="module")
def expected():
    return {name: method(recurrent()) for name, method in GRADIENTS.items()}


@pytest.mark.parametrize("name", GRADIENTS)
@pytest.mark.parametrize("broken", BREAKS)
def test_optimisations_step_aside(name, broken, expected, monkeypatch):
    BREAKS[broken](monkeypatch)
    with pytest.warns(RuntimeWarning, match="slower than it could be.*" + SENTENCE):
        result = GRADIENTS[name](recurrent())
    np.testing.assert_allclose(result, expected[name], rtol=1e-5, atol=1e-6)


READ_BY_RULES = [
    (name, broken)
    for name, broken in itertools.product(RULES, [*BREAKS][:-1])
    if (name, broken) != ("explain", "how an operation is run")  # it runs none
]


@pytest.mark.parametrize(("name", "broken"), READ_BY_RULES)
def test_rules_say_which_jax_they_know(name, broken, monkeypatch):
    BREAKS[broken](monkeypatch)
    with pytest.raises(xattr.UnreadableProgramError, match=SENTENCE):
        RULES[name](recurrent())


def test_a_jax_without_one_of_the_primitives():
    """The package is imported all the same, and programs of the others are read."""
    code = """
import jax.extend.core.primitives as primitives
import jax, jax.numpy as jnp
del primitives.cbrt_p, jax.lax.cbrt_p
import xattr
print(xattr.lrp(lambda x: jnp.sum(jnp.tanh(x)), jnp.zeros(2)))
try:
    xattr.lrp(lambda x: jnp.sum(jnp.cbrt(x)), jnp.ones(2))
except xattr.UnreadableProgramError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("[0. 0.]")
    assert "(no primitive 'cbrt_p', but cbrt): it is tested with JAX" in run.stdout


def test_the_range_is_that_of_the_project():
    """And this JAX is in it: a newer one must first be tested, then named."""
    numbers = lambda text: [int(part) for part in text.split(".")[:2]]
    assert f"jax>={versions.OLDEST.rpartition('.')[0]}" in " ".join(
        importlib.metadata.requires("xattr-jax")
    )
    assert numbers(versions.OLDEST) <= numbers(jax.__version__) <= numbers(versions.NEWEST)
    assert not jaxpr.p.missing  # or an operation that no rule knows would be taken for one of them
