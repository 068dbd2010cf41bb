"""What is compiled for a callable: arrays dynamic, all else static, nothing stale or kept alive."""

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
