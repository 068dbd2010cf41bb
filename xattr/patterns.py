"""PatternNet and PatternAttribution: the signal in the data of each layer, sent back to the input.

A layer's weights say how to filter its input, not where its signal lies: w = (1, −1) picks s out of
x = s (1, 0) + ε (1, 1) by cancelling ε. The pattern a of a unit is the direction in which its input
moves with its output, here (1, 0). Patterns are fitted once, on data, and then take the place of
the weights in the backward pass.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from xattr import _jaxpr, affine, functions, rewrite, rules, trees
from xattr._jaxpr import Equation, p
from xattr.composites import Composite, kind
from xattr.rewrite import Carried, OnUncovered, Settings
from xattr.rules import Call, Cotangents
from xattr.sites import Recognised, Site
from xattr.types import ArrayTree, Function, Progress

Estimator: TypeAlias = Literal["linear", "relu", "two_point"]
Patterns: TypeAlias = Mapping[str, Any]
"""Patterns by layer: arrays shaped as the weights of the layer."""

ESTIMATORS = ("linear", "relu", "two_point")
CHUNK = 64
"""Examples taken together where the data are not in batches."""

SIGNS = ("y>0", "y<=0")
"""The regimes of the two-point estimator, as they stand in the names of its patterns."""

BASE = (
    (kind("relu"), rules.pass_on),  # the mask of the forward pass, also where max(x, 0) has a tie
    (kind("relu6", "leaky_relu"), rules.gradient),
    (kind("sum", "scale", "product", "quotient", "power", "max", "choice"), rules.gradient),
    (kind("softmax", "shift", "normalizer"), rules.gradient),
    (kind("stop_gradient"), rules.constant),
)
"""What happens to a signal beside the layers with weights."""


def fit_patterns(
    f: Function,
    data: Iterable[Any],
    *,
    estimator: Estimator = "relu",
    args: tuple[Any, ...] = (),
    progress: Progress | None = None,
) -> dict[str, jax.Array]:
    """Estimate from data which direction of a layer's input carries the signal of each unit.

    a = c / (wᵀ c) for a unit y = wᵀ x + b, so that wᵀ a = 1. "linear": c = E[x y] − E[x] E[y], the
    covariance. "relu": c = E₊[x y] − E₊[x] E[y], with E₊ the mean where y > 0. "two_point": that
    one where y > 0 and the same with E₋, over y ≤ 0, elsewhere. A denominator of 0 counts as 1: a
    unit that never changes, or is never positive, has the pattern 0 ("relu": a class score, too).
    In a convolution x is the patch and the mean is over samples and places. A factor beside the
    weights (batch normalization) counts as part of w; where it is 0 (a mask) there is no sample.

    Shapes: `f(x, *args)` returns a scalar for one example. `data` is an array or a dict (any pytree
    but a list or a tuple) like x with a leading axis of examples, taken 64 at a time, or an
    iterable of such batches, gone through once; `progress` wraps the loop as `tqdm.tqdm` does. The
    result is a dict of arrays, at least float32, one for each array of weights and shaped as it is
    ("00 dense", "01 conv"; two for "two_point"). It fits any f with the same layers: another class,
    another size of image. The linear estimator does not depend on a shift of the data that the bias
    undoes; "relu" and "two_point" do if they are fitted anew. Raises `ValueError` for data that are
    empty or unlike each other, an unknown estimator and an f without layers, `NotImplementedError`
    for a layer inside a loop.
    Source: Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
    PatternAttribution"; conventions of github.com/pikinder/nn-patterns.

    >>> import jax.numpy as jnp, numpy as np, xattr
    >>> f = lambda x: x @ jnp.array([1.0, -1.0])
    >>> signal, noise = jnp.array([[1.0, 1, -1, -1]]), jnp.array([[1.0, -1, 1, -1]])
    >>> data = signal.T * jnp.array([[1.0, 0]]) + noise.T * jnp.array([[1.0, 1]])
    >>> patterns = xattr.fit_patterns(f, data, estimator="linear")
    >>> patterns
    {'00 dense': Array([1., 0.], dtype=float32)}

    To save and load them: `np.savez("patterns.npz", **patterns)`, `np.load("patterns.npz")`.
    """
    functions.check_callable(f, "f")
    functions.check_args(args)
    if estimator not in ESTIMATORS:
        names = ", ".join(f'"{name}"' for name in ESTIMATORS)
        raise ValueError(f"`estimator` must be one of {names}, not {estimator!r}")
    fitted = functools.partial(_fitted, f, estimator)
    example: Any = None
    state: Any = None
    for number, batch in enumerate(_batches(data, progress)):
        batch = _checked(batch, example, number)
        if state is None:
            example = jax.tree.map(lambda leaf: np.zeros(leaf.shape[1:], leaf.dtype), batch)
            state = _empty(f, example, args, estimator)
        jax.block_until_ready(state)  # or the host would run ahead and fill the memory
        state = functions.compiled(pattern_step, fitted)(state, batch, args)
    if state is None:
        raise ValueError("`data` is empty: pass at least one batch of examples")
    patterns: dict[str, jax.Array] = functions.compiled(pattern_end, fitted)(state, example, args)
    return patterns


def pattern_net(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    *,
    args: tuple[Any, ...] = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return the signal of an input: what of x made f say what it said.

    The backward pass from s = f(x), sᵢ = Σₖ aᵢₖ sₖ through a layer with the patterns a, masked at
    each ReLU as in the forward pass. For a linear f it is a wᵀx, the estimated signal.

    Shapes: `f(x, *args)` returns a scalar for one example; `patterns` are those of
    `xattr.fit_patterns`; the result is a pytree like x, in units of x. Raises `ValueError` for
    patterns of another network, `xattr.UncoveredPrimitiveError` for an activation that is no ReLU
    unless `on_uncovered="gradient"`, and as `xattr.gradient` does.
    Source: Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
    PatternAttribution".

    >>> import jax.numpy as jnp, xattr
    >>> f = lambda x: x @ jnp.array([1.0, -1.0])
    >>> patterns = {"00 dense": jnp.array([1.0, 0.0])}
    >>> xattr.pattern_net(f, jnp.array([2.0, 0.5]), patterns)
    Array([1.5, 0. ], dtype=float32)
    """
    return _explained(f, x, patterns, False, args, on_uncovered)


def pattern_attribution(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    *,
    args: tuple[Any, ...] = (),
    on_uncovered: OnUncovered = "error",
) -> ArrayTree:
    """Return how much each dimension of the signal contributes to f.

    The backward pass from r = f(x), rᵢ = Σₖ wᵢₖ aᵢₖ rₖ through a layer with weights w and patterns
    a, masked at each ReLU as in the forward pass. For a linear f it is w ⊙ a f(x).

    Shapes: `f(x, *args)` returns a scalar for one example; `patterns` are those of
    `xattr.fit_patterns`; the result is a pytree like x, in units of f. Raises `ValueError` for
    patterns of another network, `xattr.UncoveredPrimitiveError` for an activation that is no ReLU
    unless `on_uncovered="gradient"`, and as `xattr.gradient` does.
    Source: Kindermans et al. 2018, "Learning how to explain neural networks: PatternNet and
    PatternAttribution".

    >>> import jax.numpy as jnp, xattr
    >>> f = lambda x: x @ jnp.array([2.0, 1.0])
    >>> patterns = {"00 dense": jnp.array([0.5, 0.0])}
    >>> xattr.pattern_attribution(f, jnp.array([2.0, 0.5]), patterns)
    Array([4.5, 0. ], dtype=float32)
    """
    return _explained(f, x, patterns, True, args, on_uncovered)


# Layers and the places of their weights ---------------------------------------------------------


class _Place(NamedTuple):
    """A product with an array of weights.

    Its results, one for each unit and position, have axes of positions, along which the weights are
    shared, and axes of units. "By unit" below means shaped as the results, positions of length 1.
    """

    equation: Equation
    units: tuple[int, ...]
    """The axes of the weights that tell units apart, in the order they have in the results."""
    positions: tuple[int, ...]
    """The axes of the results that are positions."""

    @property
    def weight(self) -> int:
        """Which operand holds the weights."""
        return _jaxpr.weight_position(self.equation)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weights."""
        shape: tuple[int, ...] = self.equation.inputs[self.weight].shape
        return shape

    @property
    def summed(self) -> tuple[int, ...]:
        """The axes of the weights that are summed over."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.units)

    @property
    def unit_shape(self) -> tuple[int, ...]:
        """The shape of what there is by unit."""
        sizes = self.equation.output.shape
        return tuple(1 if axis in self.positions else n for axis, n in enumerate(sizes))

    def by_weight(self, values: jax.Array) -> jax.Array:
        """Return values by unit so that they broadcast to the weights."""
        ordered = jnp.transpose(jnp.squeeze(values, self.positions), _order(self.units))
        return jnp.expand_dims(ordered, self.summed)

    def by_unit(self, values: jax.Array) -> jax.Array:
        """Sum values shaped as the weights over the inputs of each unit."""
        ranks = _order(_order(self.units))
        return jnp.expand_dims(jnp.transpose(values.sum(self.summed), ranks), self.positions)

    def over_positions(self, values: jax.Array) -> jax.Array:
        """Sum values shaped as the results over the positions."""
        return values.sum(self.positions, keepdims=True)

    def largest(self, values: jax.Array) -> jax.Array:
        """Return the value of largest magnitude among the positions, with its sign."""
        high = values.max(self.positions, keepdims=True)
        low = values.min(self.positions, keepdims=True)
        return jnp.where(high >= -low, high, low)


def _order(values: Sequence[int]) -> list[int]:
    return sorted(range(len(values)), key=values.__getitem__)


class _Layer(NamedTuple):
    """A site with weights, up to where single units are picked out of it."""

    name: str
    site: Site
    core: Site
    """The site without its tail."""
    tail: list[Equation]
    """Choices of single units (a class) and factors: units not chosen have patterns all the same,
    so that patterns fitted for one class serve for another."""
    places: list[_Place]

    @property
    def equations(self) -> list[Equation]:
        """The products with weights."""
        return [place.equation for place in self.places]

    @property
    def dtype(self) -> Any:
        """The dtype in which sums over the data are taken."""
        return trees.wide(self.core.output.dtype)

    def weights(self, constants: Sequence[Any]) -> list[Any]:
        """Return the arrays of weights at the places."""
        operands = zip(
            affine.weight_places(self.site),
            affine.weight_operands(self.site, constants),
            strict=True,
        )
        return [operand for equation, operand in operands if equation in self.equations]

    def factor(self, constants: Sequence[Any]) -> jax.Array:
        """Return the factor that the tail multiplies by."""
        ones = jnp.ones(self.core.output.shape, self.core.output.dtype)
        if not self.tail:
            return ones.ravel()[0]
        rest = Site("move", self.tail, [self.core.output], self.site.constants, self.site.outputs)
        return jnp.ravel(affine.linear(rest, [ones], constants))[0]

    def completed(self, products: Sequence[Any], constants: Sequence[Any]) -> Any:
        """Return the output of the core for given products."""
        cast = [
            jnp.asarray(value, equation.output.dtype)
            for value, equation in zip(products, self.equations, strict=True)
        ]
        return affine.completed(self.core, cast, constants, True, self.equations)

    def back(self, constants: Sequence[Any]) -> Callable[[Any], list[jax.Array]]:
        """Return the function that moves values at the output of the core back to the products."""
        back = _back(self.core, self.places, constants, scale=False)
        dtype = self.core.output.dtype
        return lambda values: [t.astype(self.dtype) for t in back(values.astype(dtype))]


def _back(
    site: Site, places: Sequence[_Place], constants: Sequence[Any], scale: bool
) -> Callable[[Any], list[jax.Array]]:
    """Return the transpose of what comes after the products of a site."""
    equations = [place.equation for place in places]
    zeros = [jnp.zeros(e.output.shape, e.output.dtype) for e in equations]

    def completed(products: list[Any]) -> Any:
        return affine.completed(site, products, constants, scale, equations)

    _, back = jax.vjp(completed, zeros)

    def found(values: Any) -> list[jax.Array]:
        (moved,) = back(values)
        return moved  # type: ignore[no-any-return]

    return found


def _factors(site: Site, places: Sequence[_Place], constants: Sequence[Any]) -> list[jax.Array]:
    """Return the factors beside the weights, shaped as the results."""
    equations = [place.equation for place in places]
    if not any(e.primitive in _SCALING for e in site.equations if e not in equations):
        return [jnp.ones(e.output.shape, e.output.dtype) for e in equations]
    ones = jnp.ones(site.output.shape, site.output.dtype)
    scaled, plain = (_back(site, places, constants, scale)(ones) for scale in (True, False))
    return [affine.ratio(top, bottom) for top, bottom in zip(scaled, plain, strict=True)]


_SCALING = frozenset({p.mul_p, p.div_p, p.neg_p, p.sub_p})


def _layers(recognised: Recognised) -> list[_Layer]:
    """Return the layers of a program in order; raise for one that is inside of a loop."""
    found: list[_Layer] = []
    for site in recognised.sites:
        for inner in _inside(site):
            raise NotImplementedError(
                f"a layer inside {site.equations[0].name} has no patterns: {inner.describe()}; "
                "write scan as a Python loop, and leave out cond and checkpoint"
            )
        # Weights computed from x (behind stop_gradient) differ from one example to the next.
        if site.is_layer and not any(v.dependent for v in site.constants):
            scope = f" {site.scope}" if site.scope else ""
            core, tail = _without_tail(site)
            name = f"{len(found):02d} {site.kind}{scope}"
            found.append(_Layer(name, site, core, tail, _places(site)))
    if not found:
        raise ValueError("`f` has no dense or convolutional layer: there are no patterns to fit")
    return found


def _inside(site: Site) -> Iterator[Site]:
    """Yield the layers in the bodies of control flow."""
    for body in site.bodies:
        for inner in body.sites:
            if inner.is_layer:
                yield inner
            yield from _inside(inner)


def _without_tail(site: Site) -> tuple[Site, list[Equation]]:
    """Part a site from the equations at its end that choose units, with the factors after them."""
    cut = len(site.equations)
    for place in reversed(range(1, len(site.equations))):
        equation = site.equations[place]
        if equation.primitive not in _jaxpr.MOVES and not _is_factor(equation):
            break
        if equation.primitive in _CHOICES:
            cut = place
    head, tail = site.equations[:cut], site.equations[cut:]
    return Site(site.kind, head, site.inputs, site.constants, head[-1].outputs), tail


_CHOICES = frozenset({p.slice_p, p.dynamic_slice_p, p.gather_p})


def _is_factor(equation: Equation) -> bool:
    scalar = any(isinstance(v, _jaxpr.Literal) or v.shape == () for v in equation.inputs)
    return equation.primitive is p.neg_p or (equation.primitive in (p.mul_p, p.div_p) and scalar)


def _places(site: Site) -> list[_Place]:
    """Return the products with weights; a product of such a product is a factor beside them."""
    found: list[_Place] = []
    weighed: set[Any] = set()
    candidates = affine.weight_places(site)
    for equation in site.equations:
        if any(v in weighed for v in equation.dependents):
            weighed.update(equation.outputs)
        elif equation in candidates:
            weighed.update(equation.outputs)
            found.append(_place(equation))
    return found


def _place(equation: Equation) -> _Place:
    rank = len(equation.output.shape)
    if equation.primitive is p.mul_p:
        return _Place(equation, tuple(range(rank)), ())
    numbers = equation.params["dimension_numbers"]
    if equation.primitive is p.conv_general_dilated_p:
        feature = numbers.out_spec[1]
        positions = tuple(axis for axis in range(rank) if axis != feature)
        return _Place(equation, (numbers.rhs_spec[0],), positions)
    weight = _jaxpr.weight_position(equation)
    contracted, batch = (pair[weight] for pair in numbers)
    axes = range(len(equation.inputs[weight].shape))
    free = [axis for axis in axes if axis not in (*contracted, *batch)]
    first = len(batch) + (0 if weight else len(free))  # the operand on the left comes first
    count = rank - len(batch) - len(free)
    return _Place(equation, (*batch, *free), tuple(range(first, first + count)))


# Names ------------------------------------------------------------------------------------------


def _names(layer: _Layer, two_point: bool) -> list[list[str]]:
    """Return the names of a layer's patterns, by regime and place."""
    several = len(layer.places) > 1
    names = [
        f"{layer.name} weights {number}" if several else layer.name
        for number in range(len(layer.places))
    ]
    return [[f"{name} {sign}" for name in names] for sign in SIGNS] if two_point else [names]


def _assigned(layers: list[_Layer], patterns: dict[str, Any]) -> list[list[list[Any]]]:
    """Return the patterns of each layer by regime and place; raise if they are of another f."""
    two_point = any(name.endswith(SIGNS) for name in patterns)
    names = [_names(layer, two_point) for layer in layers]
    expected = {
        name: place.shape
        for layer, regimes in zip(layers, names, strict=True)
        for regime in regimes
        for name, place in zip(regime, layer.places, strict=True)
    }
    problems = [f"there is none for {name!r}" for name in expected if name not in patterns]
    problems += [f"f has no {name!r}" for name in patterns if name not in expected]
    problems += [
        f"{name!r} has shape {patterns[name].shape}, but the weights {shape}"
        for name, shape in expected.items()
        if name in patterns and patterns[name].shape != shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise ValueError(
            f"`patterns` are of another network: {'; '.join(problems[:3])}{more}. "
            "Fit them on this f, with xattr.fit_patterns(f, data)"
        )
    return [[[patterns[name] for name in regime] for regime in regimes] for regimes in names]


# Data -------------------------------------------------------------------------------------------


def _batches(data: Any, progress: Progress | None) -> Iterator[Any]:
    """Yield the batches of the data; an array or a pytree of examples in chunks."""
    if not _is_examples(data):
        if not isinstance(data, Iterable):
            raise TypeError(
                f"`data` must be an array of examples or an iterable of batches, but is a "
                f"{type(data).__name__}"
            )
        yield from progress(data) if progress else data
        return
    count = min((np.shape(leaf) or (0,))[0] for leaf in jax.tree.leaves(data) or [0])
    _same_count(data)
    starts: Iterable[int] = range(0, count, CHUNK)
    for start in progress(starts) if progress else starts:
        yield jax.tree.map(lambda leaf, at=start: leaf[at : at + CHUNK], data)


def _is_examples(data: Any) -> bool:
    """Tell whether data are one pytree; a list, a tuple or an iterator holds batches."""
    if isinstance(data, (jax.Array, np.ndarray)):
        return True
    batches = isinstance(data, (list, tuple)) and not hasattr(data, "_fields")
    if batches or isinstance(data, Iterator):
        return False
    found: Any = jax.tree.structure(data)
    return bool(found != jax.tree.structure(0))


def _same_count(batch: ArrayTree) -> None:
    """Raise unless all leaves have as many examples, and any at all."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if counts == {0} or not all(shapes):
        raise ValueError(
            "`data` has no examples: arrays must be like x with a leading axis of at least one, "
            f"but have shapes {', '.join(map(str, shapes))}"
        )
    if len(counts) > 1:
        raise ValueError(f"`data` has leaves of {sorted(counts)} examples: give all as many")


def _checked(batch: ArrayTree, example: ArrayTree | None, number: int) -> ArrayTree:
    """Return a batch in the form of the first; raise if an example of it is unlike."""
    batch = trees.floating(batch, "data")
    _same_count(batch)
    if example is None:
        return batch
    name = f"data[{number}]"
    trees.same_structure(batch, example, name, "data[0]")
    for leaf, target in zip(jax.tree.leaves(batch), jax.tree.leaves(example), strict=True):
        if leaf.shape[1:] != target.shape:
            raise ValueError(
                f"`{name}` has examples of shape {leaf.shape[1:]}, but those of `data[0]` have "
                f"shape {target.shape}: batches must be alike but for their number of examples"
            )
    return trees.cast_like(batch, example)


# Fitting ----------------------------------------------------------------------------------------


class _Regime(NamedTuple):
    """Sums over the samples and positions of one regime, such as y > 0."""

    number: jax.Array
    """How many, by unit."""
    x: jax.Array
    """Σ x, shaped as the weights."""
    xy: jax.Array
    """Σ x (y − origin), shaped as the weights."""


class _Sums(NamedTuple):
    """What is kept of the data at one place; counts and y by unit."""

    origin: jax.Array
    """The first y. The patterns do not depend on it: it keeps large means out of the sums, and
    makes the sums of a unit that never changes exactly 0."""
    number: jax.Array
    y: jax.Array
    """Σ (y − origin)."""
    regimes: tuple[_Regime, ...]


class _Seen(NamedTuple):
    """One example at one place."""

    data: jax.Array
    weight: jax.Array
    """1 for each result, 0 where it goes nowhere."""
    y: jax.Array
    """The output of the layer, at the results."""
    regimes: tuple[tuple[jax.Array, jax.Array], ...]
    """The same two, 0 outside of each regime."""


def _fitted(f: Function, estimator: Estimator) -> tuple[Function, Estimator]:
    """Hold a function and an estimator together, for `functions.compiled`."""
    return f, estimator


def _traced(f: Function, example: ArrayTree, args: tuple[Any, ...]) -> Recognised:
    recognised, _ = rewrite.traced(functions.checked(f), example, args, "gradient")
    return recognised


def _empty(
    f: Function, example: ArrayTree, args: tuple[Any, ...], estimator: Estimator
) -> list[list[_Sums]]:
    """Return the sums over no data, by layer and place."""
    try:
        layers = _layers(_traced(f, example, args))
    except Exception as error:
        forms = jax.tree.map(jax.typeof, example)
        error.add_note(f"f was given one example of `data`, the first without its axis: {forms}")
        raise
    regimes = 2 if estimator == "two_point" else 1

    def sums(place: _Place, dtype: Any) -> _Sums:
        units, weights = np.zeros(place.unit_shape, dtype), np.zeros(place.shape, dtype)
        return _Sums(units, units, units, (_Regime(units, weights, weights),) * regimes)

    return [[sums(place, layer.dtype) for place in layer.places] for layer in layers]


def pattern_step(
    fitted: Any, state: list[list[_Sums]], batch: ArrayTree, args: tuple[Any, ...]
) -> list[list[_Sums]]:
    """Add a batch to the sums."""
    f, estimator = fitted()
    example = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), batch)
    recognised = _traced(f, example, args)
    layers = _layers(recognised)

    def seen(x: ArrayTree) -> list[list[_Seen]]:
        calls = _calls(recognised, layers, x, args)
        return [_see(layer, *calls[layer.name], estimator) for layer in layers]

    return [
        [_added(*each) for each in zip(sums, layer.places, parts, strict=True)]
        for sums, layer, parts in zip(state, layers, jax.vmap(seen)(batch), strict=True)
    ]


def _calls(
    recognised: Recognised, layers: list[_Layer], x: ArrayTree, args: tuple[Any, ...]
) -> dict[str, tuple[list[Any], list[Any]]]:
    """Run a program; return inputs and constants of its layers."""
    program = recognised.program
    env: dict[Any, Any] = dict(program.constants)
    env.update(zip(program.inputs, jax.tree.leaves((x, args)), strict=True))
    for site in recognised.sites:
        inputs, constants = ([env[v] for v in values] for values in (site.inputs, site.constants))
        result = affine.apply(site, inputs, constants)
        env.update(zip(site.outputs, result if len(site.outputs) > 1 else [result], strict=True))
    return {
        layer.name: ([env[v] for v in layer.site.inputs], [env[v] for v in layer.site.constants])
        for layer in layers
    }


def _see(
    layer: _Layer, inputs: Sequence[Any], constants: Sequence[Any], estimator: Estimator
) -> list[_Seen]:
    """Return the data of each product of a layer, and the layer's output moved back to it."""
    env = dict(zip(layer.site.inputs, inputs, strict=True))
    env.update(zip(layer.site.constants, constants, strict=True))
    for equation in layer.core.equations:
        results = _jaxpr.run(equation, [_jaxpr.read(env, v) for v in equation.inputs])
        env.update(zip(equation.outputs, results, strict=True))
    y = env[layer.core.output] * layer.factor(constants)
    # A factor of 0 masks a position out: it is no sample.
    live = [t != 0 for t in _factors(layer.core, layer.places, constants)]
    moved = layer.back(constants)

    def back(values: jax.Array) -> list[jax.Array]:
        return [t * kept.astype(t.dtype) for t, kept in zip(moved(values), live, strict=True)]

    all_ones, all_y = back(jnp.ones_like(y)), back(y)
    chosen = [(back(mask), back(jnp.where(mask, y, 0))) for mask in _masks(y, estimator)]
    return [
        _Seen(
            env[place.equation.inputs[1 - place.weight]].astype(layer.dtype),
            all_ones[number],
            all_y[number],
            tuple((ones[number], values[number]) for ones, values in chosen),
        )
        for number, place in enumerate(layer.places)
    ]


def _masks(y: jax.Array, estimator: Estimator) -> list[jax.Array]:
    if estimator == "linear":
        return [jnp.ones_like(y, bool)]
    return [y > 0] if estimator == "relu" else [y > 0, y <= 0]


def _added(sums: _Sums, place: _Place, seen: _Seen) -> _Sums:
    """Add a batch of examples to the sums at one place."""
    first = tuple(
        slice(0, 1) if axis in place.positions else slice(None)
        for axis in range(len(place.unit_shape))
    )
    origin = jnp.where(sums.number > 0, sums.origin, seen.y[0][first])
    by_weight = _sum_of_products(place, seen.data, origin.dtype)

    def by_unit(values: jax.Array) -> jax.Array:
        return place.over_positions(values.sum(0))

    regimes = tuple(
        _Regime(
            kept.number + by_unit(weight),
            kept.x + by_weight(weight),
            kept.xy + by_weight(y - origin[None] * weight),
        )
        for kept, (weight, y) in zip(sums.regimes, seen.regimes, strict=True)
    )
    shifted = seen.y - origin[None] * seen.weight
    return _Sums(origin, sums.number + by_unit(seen.weight), sums.y + by_unit(shifted), regimes)


def _sum_of_products(
    place: _Place, data: jax.Array, dtype: Any
) -> Callable[[jax.Array], jax.Array]:
    """Return the function from t to Σ x t, shaped as the weights: the gradient of Σ t wᵀx."""
    product = jax.vmap(functools.partial(_product, place), (0, None))
    _, back = jax.vjp(functools.partial(product, data), jnp.zeros(place.shape, dtype))

    def total(values: jax.Array) -> jax.Array:
        (found,) = back(values)
        return found  # type: ignore[no-any-return]

    return total


def _product(place: _Place, data: jax.Array, weights: jax.Array) -> jax.Array:
    """Apply weights in the dtype of sums, with nothing rounded on the way."""
    equation = place.equation
    params = dict(equation.params)
    if equation.primitive in _jaxpr.WEIGHTED:
        params.update(precision=(lax.Precision.HIGHEST,) * 2, preferred_element_type=weights.dtype)
    operands = (data, weights) if place.weight else (weights, data)
    result: jax.Array = equation.primitive.bind(*operands, **params)
    return result


def pattern_end(
    fitted: Any, state: list[list[_Sums]], example: ArrayTree, args: tuple[Any, ...]
) -> dict[str, jax.Array]:
    """Return the patterns for the sums."""
    f, estimator = fitted()
    recognised = _traced(f, example, args)
    layers = _layers(recognised)
    calls = _calls(recognised, layers, example, args)
    patterns: dict[str, jax.Array] = {}
    for layer, sums in zip(layers, state, strict=True):
        _, constants = calls[layer.name]
        for regime, names in enumerate(_names(layer, estimator == "two_point")):
            directions = [
                _direction(*each, regime) for each in zip(layer.places, sums, strict=True)
            ]
            patterns.update(zip(names, _scaled(layer, directions, constants), strict=True))
    return patterns


def _direction(place: _Place, sums: _Sums, regime: int) -> jax.Array:
    """Return c = E[x y] − E[x] E[y], the first two over a regime."""
    number, x, xy = sums.regimes[regime]
    mean = affine.ratio(sums.y, sums.number)
    inverse = affine.ratio(jnp.ones_like(number), number)
    return place.by_weight(inverse) * (xy - x * place.by_weight(mean))


def _scaled(
    layer: _Layer, directions: list[jax.Array], constants: Sequence[Any]
) -> list[jax.Array]:
    """Divide c by wᵀ c, w with the factors beside it."""
    weights = [jnp.asarray(w).astype(layer.dtype) for w in layer.weights(constants)]
    products = [
        jnp.broadcast_to(place.by_unit(w * c), place.equation.output.shape)
        for place, w, c in zip(layer.places, weights, directions, strict=True)
    ]
    # Relative to the largest, for layers in float16: squares of their values leave its range.
    unit = functools.reduce(jnp.maximum, [jnp.max(jnp.abs(each)) for each in products])
    unit = jnp.where(unit == 0, jnp.ones_like(unit), unit)
    total = layer.completed([each / unit for each in products], constants)
    back = layer.back(constants)
    tops, counts = back(total * layer.factor(constants)), back(jnp.ones_like(total))
    scaled = []
    for place, c, top, count in zip(layer.places, directions, tops, counts, strict=True):
        bottom = unit * place.largest(affine.ratio(top, count))
        scaled.append(c / place.by_weight(jnp.where(bottom == 0, jnp.ones_like(bottom), bottom)))
    return scaled


# Explaining -------------------------------------------------------------------------------------


def _explained(
    f: Function,
    x: ArrayTree,
    patterns: Patterns,
    attribution: bool,
    args: tuple[Any, ...],
    on_uncovered: OnUncovered,
) -> ArrayTree:
    functions.check_callable(f, "f")
    functions.check_args(args)
    rewrite.check_options("exclude", on_uncovered)
    if not isinstance(patterns, Mapping):
        raise TypeError(
            "`patterns` must be a dict of arrays, as xattr.fit_patterns(f, data) returns it, but "
            f"is a {type(patterns).__name__}"
        )
    x = trees.floating(x, "x")
    arrays = trees.floating(dict(patterns), "patterns")
    modified = functools.partial(_options, f, attribution, on_uncovered)
    result: ArrayTree = functions.compiled(pattern_kernel, modified)(x, arrays, args)
    return result


def _options(
    f: Function, attribution: bool, on_uncovered: OnUncovered
) -> tuple[Function, bool, OnUncovered]:
    """Hold a function and the options together, for `functions.compiled`."""
    return f, attribution, on_uncovered


def pattern_kernel(
    modified: Any, x: ArrayTree, patterns: dict[str, Any], args: tuple[Any, ...]
) -> ArrayTree:
    """Return what comes back from f(x) through the patterns."""
    f, attribution, on_uncovered = modified()
    recognised = _traced(f, x, args)
    layers = _layers(recognised)
    entries = tuple(
        (
            functools.partial(_is_at, index=layer.site.index),
            functools.partial(
                _through_patterns,
                patterns=regimes,
                attribution=attribution,
            ),
        )
        for layer, regimes in zip(layers, _assigned(layers, patterns), strict=True)
    )
    settings = Settings(Composite((*entries, *BASE), "gradient"), on_uncovered=on_uncovered)

    def value_of(x: ArrayTree) -> jax.Array:
        operands = [Carried(leaf) for leaf in jax.tree.leaves((x, args))]
        (result,) = rewrite.run(recognised, operands, settings)
        value: jax.Array = result.value
        return value

    value, back = jax.vjp(value_of, x)
    (result,) = back(value)
    return result


def _is_at(site: Site, index: int) -> bool:
    return site.is_layer and site.index == index


def _through_patterns(
    call: Call, g: jax.Array, patterns: list[list[jax.Array]], attribution: bool
) -> Cotangents:
    """Send a signal back with patterns, or weights ⊙ patterns, instead of weights."""
    if len(patterns) == 1:
        signals = [g]
    else:
        above = call.output > 0
        signals = [jnp.where(above, g, jnp.zeros_like(g)), jnp.where(above, jnp.zeros_like(g), g)]
    weights = [_replaced(call, regime, attribution) for regime in patterns]

    def replaced(*inputs: Any) -> list[Any]:
        return [affine.weighted(call.site, inputs, call.constants, w, True) for w in weights]

    _, back = jax.vjp(replaced, *call.inputs)
    gradients: Sequence[Any] = back(signals)
    return gradients


def _replaced(call: Call, patterns: list[jax.Array], attribution: bool) -> list[Any]:
    """Return w ⊙ a or a / s for the weights w, the patterns a and the factors s beside w.

    The factors are then applied as in the forward pass: one that is the same at all positions
    leaves a, one that masks positions out still does.
    """
    places = _places(call.site)
    replaced = dict(
        zip(
            affine.weight_places(call.site),
            map(jnp.asarray, affine.weight_operands(call.site, call.constants)),
            strict=True,
        )
    )
    factors = _factors(call.site, places, call.constants)
    for place, pattern, factor in zip(places, patterns, factors, strict=True):
        weight = replaced[place.equation]
        if attribution:
            found = weight.astype(pattern.dtype) * pattern
        else:
            factor = place.by_weight(place.largest(factor)).astype(pattern.dtype)
            found = affine.ratio(pattern, jnp.broadcast_to(factor, pattern.shape))
        replaced[place.equation] = found.astype(weight.dtype)
    return list(replaced.values())
