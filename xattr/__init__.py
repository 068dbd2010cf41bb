"""Attribution for JAX: the inputs that made the model say this.

Every method is a function `method(f, x, ..., *, args=())` of a function `f(x, *args) -> scalar` for
one example, and composes with `jax.jit`, `jax.vmap`, `jax.grad` and `jax.shard_map`.
"""

from importlib.metadata import version as _version

from xattr import paths, plot, quadrature, targets, testing
from xattr.axioms import completeness_gap
from xattr.baselines import expected_gradients
from xattr.gradients import gradient, gradient_x_input, interior_gradients
from xattr.integrated import aumann_shapley, integrated_gradients
from xattr.kernel import integrate, path_integral, sample
from xattr.noise import smooth_grad, smooth_grad_squared, var_grad
from xattr.types import PathSamples, Quadrature

__version__ = _version("xattr-jax")

__all__ = [
    "PathSamples",
    "Quadrature",
    "aumann_shapley",
    "completeness_gap",
    "expected_gradients",
    "gradient",
    "gradient_x_input",
    "integrate",
    "integrated_gradients",
    "interior_gradients",
    "path_integral",
    "paths",
    "plot",
    "quadrature",
    "sample",
    "smooth_grad",
    "smooth_grad_squared",
    "targets",
    "testing",
    "var_grad",
]
