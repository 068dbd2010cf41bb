"""How much attributions depend on the baseline."""

import jax
import jax.numpy as jnp
from jax import lax

from xattr._core import compilation, trees
from xattr._integrate import expected
from xattr.types import Args, Array, ArrayTree, Function, Method


def baseline_sensitivity(
    f: Function, x: ArrayTree, baselines: ArrayTree, *, method: Method, args: Args = ()
) -> Array:
    """Return how far the maps of x for any two baselines of a menu are apart.

    D[a, b] = Σᵢ |Aᵢ(a) − Aᵢ(b)| / ½ Σᵢ (|Aᵢ(a)| + |Aᵢ(b)|), where A(a) is the map for baseline a.

    0 is the same map, and 2 are maps that share no feature or have other signs everywhere. It is 0
    for two maps of zeros. Black, white, mean and blurred images are a menu for images, for example.
    All maps are taken together, by `jax.vmap`, and are in memory.

    Args:
        f: the function explained, `f(x, *args) -> scalar`, for one example.
        x: the input, a pytree of floating arrays.
        baselines: a pytree like x, with a leading axis of m ≥ 1 baselines on every leaf.
        method: a function `method(f, x, baseline, *, args)`, such as `xattr.integrated_gradients`.
            Bind its options with `functools.partial`.
        args: further arguments of f. They are not attributed; a new value does not recompile.

    Returns:
        The distances, of shape (m, m), without unit: symmetric, with zeros on the diagonal. Their
        dtype is float32 at least.

    Raises:
        ValueError: if the baselines are not like x.
        TypeError: if a leaf of x is not floating, `method` is not a function, or `args` is not a
            tuple.

    Source:
        Sturmfels, Lundberg & Lee 2020, "Visualizing the Impact of Feature Attribution Baselines",
        for the question; the distance is ours.

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f, baselines = lambda x: x[0] + x[1], jnp.array([[0.0, 0.0], [0.0, 2.0]])
        >>> method = xattr.integrated_gradients
        >>> xattr.baseline_sensitivity(f, jnp.ones(2), baselines, method=method).round(3)
        Array([[0., 1.],
               [1., 0.]], dtype=float32)
    """
    x = trees.floating(x, "x")
    baselines, _ = expected.checked_baselines(baselines, x)
    compilation.check_callable(method, "method")
    compilation.check_args(args)
    maps = jax.vmap(lambda baseline: method(f, x, baseline, args=args))(baselines)
    return _distances(trees.widen(maps))


@jax.jit
def _distances(maps: ArrayTree) -> jax.Array:
    """Return the distances of all pairs; the differences are of one map at a time."""

    def to_all(each: ArrayTree) -> jax.Array:
        def to_one(other: ArrayTree) -> jax.Array:
            apart = trees.total(jax.tree.map(lambda a, b: jnp.abs(a - b), each, other))
            sizes = jax.tree.map(lambda a, b: jnp.abs(a) + jnp.abs(b), each, other)
            total = trees.total(sizes) / 2
            return jnp.where(total > 0, apart / jnp.where(total > 0, total, 1), 0 * apart)

        return jax.vmap(to_one)(maps)

    return jnp.asarray(lax.map(to_all, maps))
