"""What is compiled for a callable: arrays are arguments; nothing is stale or kept alive."""

import dataclasses
import functools
import gc
import subprocess
import sys
import threading
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.ad_checkpoint import checkpoint_name

import xattr
from tests import table
from xattr._core import compilation
from xattr.testing import KERNEL, count_compilations

X = jnp.array([1.0, 2.0, 3.0])


def power(x, exponent=2, scale=1.0):
    return scale * jnp.sum(x**exponent)


def test_static_values_of_a_partial_are_told_apart():
    for exponent, slope in ((2, 2 * X), (3, 3 * X**2)):
        f = functools.partial(power, exponent=exponent)  # an int decides how x**n is traced
        table.close(xattr.gradient(f, X), slope)
    positive, negative = (functools.partial(power, scale=s) for s in (1.0, -1.0))
    table.close(xattr.gradient(positive, X), -xattr.gradient(negative, X))


def test_zero_and_minus_zero_are_told_apart_and_nan_is_itself():
    def f(x, sign):
        return jnp.sum(x) * np.copysign(1.0, sign)

    for sign in (0.0, -0.0):
        slope = xattr.gradient(functools.partial(f, sign=sign), X)
        assert (slope == np.copysign(1.0, sign)).all()
    with count_compilations() as counts:
        for _ in range(3):
            xattr.gradient(functools.partial(power, scale=float("nan")), X)
    assert counts[KERNEL] == 1


def test_numpy_numbers_are_static_and_arrays_dynamic():
    loop = lambda x, n: sum(jnp.sum(x) for _ in range(n))
    assert (xattr.gradient(functools.partial(loop, n=np.int64(3)), X) == 3).all()
    scaled = lambda x, w: jnp.sum(w * x)
    with count_compilations() as counts:
        for value in (1.0, 2.0):
            w = np.full(3, value, np.float32)
            assert (xattr.gradient(functools.partial(scaled, w=w), X) == value).all()
    assert counts[KERNEL] == 1


def test_a_subclass_of_partial_keeps_its_call():
    class Tenfold(functools.partial):
        def __call__(self, x):
            return 10 * super().__call__(x)

    table.close(xattr.gradient(Tenfold(power), X), 20 * X)


def test_callables_that_cannot_be_referred_to_weakly():
    @dataclasses.dataclass(slots=True)  # and with __eq__, so without __hash__
    class Scaled:
        factor: float

        def __call__(self, x):
            return self.factor * jnp.sum(x)

    first, second = Scaled(1.0), Scaled(1.0)
    second.factor = 7.0
    assert (xattr.gradient(first, X) == 1).all()
    assert (xattr.gradient(second, X) == 7).all()


def test_slices_and_the_like_can_be_bound():
    f = lambda x, part: jnp.sum(x[part] ** 2)
    with count_compilations() as counts:
        for _ in range(2):
            slope = xattr.gradient(functools.partial(f, part=slice(0, 2)), X)
    assert slope.tolist() == [2, 4, 0]
    assert counts[KERNEL] == 1


def test_a_module_sees_its_new_weights():
    net = table.NnxMLP()
    f = xattr.targets.logit(net)
    before = xattr.gradient(f, X, args=(1,))
    net.out.kernel[...] = 3 * net.out.kernel[...]
    table.close(xattr.gradient(f, X, args=(1,)), 3 * before, 1e-5)


# Callables with named parts ---------------------------------------------------------------------


def layered(x, scale=1.0):
    return jnp.sum(checkpoint_name(scale * x, "hidden") ** 2)


def other(x):
    return jnp.sum(checkpoint_name(3 * x, "hidden") ** 2)


def boxed(f, low=-1.0):
    """f under LRP-z^B, whose rule holds arrays."""
    box = xattr.rules.z_box(jnp.full(3, low), jnp.ones(3))
    return xattr.with_rules(f, xattr.composites.every_layer(box))


def test_callables_of_the_same_parts_are_equal():
    for place in (0, 1):
        part = lambda *parts, place=place: xattr.at_layer(*parts)[place]
        first, again = part(layered, "hidden"), part(layered, "hidden")
        assert first == again
        assert hash(first) == hash(again)
        assert first != part(layered, "another")
        assert first != part(other, "hidden")
        assert first != part(functools.partial(layered, scale=2.0), "hidden")
    to_layer, from_layer = xattr.at_layer(layered, "hidden")
    assert to_layer != from_layer
    assert to_layer != (layered, "hidden")
    bound, scale = functools.partial(layered, scale=X), jnp.array(X)
    assert xattr.at_layer(bound, "hidden") == xattr.at_layer(bound, "hidden")
    # Arrays are compared by identity: of a static f they are constants of the program.
    assert xattr.at_layer(bound, "hidden") != xattr.at_layer(
        functools.partial(layered, scale=scale), "hidden"
    )


def test_callables_with_arrays_in_their_options_have_a_hash():
    composite = xattr.composites.every_layer(xattr.rules.z_box(-jnp.ones(3), jnp.ones(3)))
    first, again = (xattr.with_rules(layered, composite) for _ in range(2))
    assert first == again
    assert hash(first) == hash(again)
    assert first != boxed(layered)  # of other arrays
    assert first != xattr.with_rules(other, composite)
    assert len({first, again, boxed(layered)}) == 2


def test_a_callers_jit_compiles_once_for_callables_of_the_same_parts():
    def method(f, h, x):
        return jax.grad(f)(h, x)

    jitted = jax.jit(method, static_argnums=0)
    with count_compilations() as counts:
        for scale in (1.0, 2.0):
            for _ in range(3):
                _, from_layer = xattr.at_layer(layered, "hidden")
                table.close(jitted(from_layer, scale * X, X), 2 * scale * X)
    assert counts["method"] == 1
    with count_compilations() as counts:
        _, from_layer = xattr.at_layer(other, "hidden")
        jitted(from_layer, X, X)
    assert counts["method"] == 1


def test_arrays_in_a_callable_with_named_parts_are_arguments():
    with count_compilations() as counts:
        for factor in (1.0, 2.0, 3.0):
            f = functools.partial(layered, scale=factor * jnp.ones(3))
            to_layer, from_layer = xattr.at_layer(f, "hidden")
            h = to_layer(X)
            table.close(h, factor * X)
            table.close(xattr.gradient(from_layer, h, args=(X,)), 2 * h)
    assert counts[KERNEL] == 1


def test_a_callable_with_named_parts_shows_them():
    to_layer, from_layer = xattr.at_layer(layered, "hidden")
    for found, name in ((to_layer, "ToLayer"), (from_layer, "FromLayer")):
        assert repr(found) == f"{name}(f={layered!r}, layer='hidden')"
    assert repr(boxed(layered)).startswith(f"Ruled(f={layered!r}, composite=")


@jax.tree_util.register_pytree_node_class
class Normalizing:
    """A module that replaces its mean when it is called, as batch normalization in training."""

    def __init__(self, mean):
        self.mean = mean

    def tree_flatten(self):
        return (self.mean,), None

    @classmethod
    def tree_unflatten(cls, _, leaves):
        return cls(*leaves)

    def __call__(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x
        return jnp.sum((x - self.mean) ** 2)


@pytest.mark.parametrize(
    "attribute",
    [
        xattr.gradient,
        xattr.integrated_gradients,
        lambda f, x: jax.jit(lambda x: xattr.gradient(f, x))(x),
        lambda f, x: jax.vmap(lambda x: xattr.gradient(f, x))(x[None]),
    ],
    ids=["eager", "path", "jit", "vmap"],
)
def test_a_state_that_changes_is_told_at_the_callers_line(attribute):
    """f is traced by JAX: between the caller and the library lie frames of both."""
    compilation._COMPILED.clear()
    with pytest.warns(UserWarning, match="changes 1 of its own arrays") as caught:
        attribute(Normalizing(jnp.zeros(3)), X)
    assert {each.filename for each in caught} == {__file__}


END = [jnp.ones(3)]


def path_to_the_end(alpha):
    return alpha * END[0]


def test_a_callers_path_is_never_stale():
    """It is not compiled: what it reads from elsewhere may change."""
    for end in (X, 2 * X):
        END[0] = end
        table.close(xattr.path_integral(power, path_to_the_end), end**2)


def test_as_many_programs_are_kept_as_there_is_room_for():
    @jax.tree_util.register_pytree_node_class
    class Module:
        """A pytree whose static part is a closure: its treedef keeps it alive."""

        def __init__(self, weight, activation):
            self.weight, self.activation = weight, activation

        def tree_flatten(self):
            return (self.weight,), self.activation

        @classmethod
        def tree_unflatten(cls, activation, leaves):
            return cls(*leaves, activation)

        def __call__(self, x):
            return jnp.sum(self.activation(self.weight * x))

    for factor in range(compilation._MAX_PROGRAMS + 20):
        compilation.compiled(power, Module(jnp.ones(3), lambda v, factor=factor: factor * v))
    assert len(compilation._COMPILED) <= compilation._MAX_PROGRAMS


def test_a_program_goes_with_its_function():
    compilation._COMPILED.clear()
    f = lambda x: jnp.sum(x**2)
    xattr.gradient(f, X)
    gone = weakref.ref(f)
    assert compilation._COMPILED
    del f
    gc.collect()
    assert gone() is None
    assert not compilation._COMPILED


def test_closures_over_tracers_do_not_leak():
    def loss(scale):
        return jnp.sum(xattr.integrated_gradients(lambda x: power(scale * x), X))

    with jax.checking_leaks():
        slope = jax.grad(loss)(2.0)
    table.close(slope, 4 * jnp.sum(X**2), 1e-5)
    table.close(jax.vmap(loss)(jnp.array([1.0, 2.0])), jnp.array([1.0, 4.0]) * jnp.sum(X**2), 1e-5)


def test_threads_share_programs():
    results = []
    run = lambda: results.append(xattr.gradient(functools.partial(power, exponent=4), X))
    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in results:
        table.close(result, 4 * X**3)
    assert len(results) == 6


RACE = """
import threading
from xattr._core import compilation

def power(x):
    return x**2

def compiled():
    programs.append(compilation.compiled(compilation.function_value, power).func)

programs, both, watch = [], threading.Barrier(2), compilation._watch
compilation._watch = lambda *args: (both.wait(), watch(*args))[1]  # neither has found the other's
threads = [threading.Thread(target=compiled) for _ in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(len(compilation._COMPILED), programs[0] is programs[1])
"""


def test_threads_that_race_share_a_program_and_leave_without_a_word():
    """A second program was forgotten by comparing keys, at exit when names were gone."""
    run = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1", "True"]
    assert not run.stderr


MODES = """
import jax.numpy as jnp, xattr
from flax import nnx

for mode in ("train", "eval"):
    model = nnx.Sequential(nnx.Dropout(0.5, rngs=nnx.Rngs(0)))
    getattr(model, mode)()
    xattr.gradient(xattr.targets.logit(model), jnp.ones(3), args=(0,))
"""


def test_programs_of_two_alike_modules_leave_without_a_word():
    """Their keys have the same hash, and flax's names, which compare them, are gone at exit."""
    run = subprocess.run([sys.executable, "-c", MODES], capture_output=True, text=True, check=True)
    assert not run.stderr


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.uint32, np.int32])
@pytest.mark.parametrize("classes", [10, 256, 300, 1000])
@pytest.mark.parametrize("target", ["logit", "log_odds"])
def test_labels_of_every_integer_type(target, classes, dtype):
    f = getattr(xattr.targets, target)(lambda x: x)
    scores = jnp.linspace(0, 1, classes)
    expected = f(scores, 9)
    assert jnp.isfinite(expected)
    assert f(scores, dtype(9)) == expected
    assert xattr.gradient(f, scores, args=(dtype(9),))[9] != 0


def test_known_arrays_inside_a_trace():
    """Values that are known while a caller's function is traced are checked on the host."""
    p, alphas, scale = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.5, 1.0]), jnp.array(0.1)
    key = jax.random.key(0)
    calls = [
        lambda x: xattr.path_integral(
            power, xattr.paths.monotone(baseline=0 * x, x=x, exponents=p)
        ),
        lambda x: xattr.interior_gradients(power, x, alphas=alphas),
        lambda x: xattr.smooth_grad(power, x, key, noise_scale=scale, num_samples=3),
        lambda x: (
            xattr.path_integral(
                power, xattr.paths.concatenate([lambda a: a * X, lambda a: (1 + a) * X])
            )
            + 0 * x
        ),
    ]
    for call in calls:
        table.close(jax.jit(call)(X), call(X))
    negative = -p
    with pytest.raises(ValueError, match="`exponents` must be greater than 0"):
        jax.jit(
            lambda x: xattr.path_integral(
                power, xattr.paths.monotone(baseline=0 * x, x=x, exponents=negative)
            )
        )(X)


def test_variance_of_huge_slopes_is_the_same_inside_jit():
    f = lambda x: 3e20 * jnp.sum(x)
    run = lambda x: xattr.var_grad(f, x, jax.random.key(0), num_samples=5, chunk_size=2)
    assert (run(X) == 0).all()
    assert (jax.jit(run)(X) == 0).all()


def test_gap_is_summed_before_it_is_rounded():
    x = jnp.ones(2, jnp.float16)
    gap = xattr.completeness_gap(lambda x: jnp.sum(x) * 0, jnp.array([1e5, 1.0]), x)
    assert gap == 100_001
    assert gap.dtype == jnp.float32
