"""Composites: which rule goes to which operation of the program.

A composite is an ordered list of (predicate, rule). The first predicate that holds for an operation
decides. An operation for which none holds is not covered: the method then raises
`xattr.UncoveredPrimitiveError`, and does not take the gradient in silence.
"""

import functools

from xattr import rules
from xattr._recognise import backward
from xattr._recognise.backward import Backward
from xattr._recognise.composite import Composite, Entries, NamedPredicate, Predicate, shown
from xattr._recognise.operation import KINDS, Operation
from xattr._recognise.recognise import is_elementwise_affine
from xattr.types import Array

__all__ = [
    "Composite",
    "both",
    "compose",
    "conv",
    "dense",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "every_layer",
    "first_layer",
    "kind",
    "last_layer",
    "named",
    "preset_a",
    "preset_a_flat",
    "preset_b",
    "preset_b_flat",
]

# Predicates -------------------------------------------------------------------------------------


def kind(*names: str) -> Predicate:
    """Return a predicate: the operation is of one of these kinds.

    Args:
        *names: kinds, as `xattr.explain` lists them: "dense", "conv", "sum", "relu", "softmax", …

    Returns:
        A predicate `operation -> bool`, for `compose`.

    Raises:
        ValueError: for a kind that does not exist; the text lists those that do.

    Example:
        >>> from xattr import composites
        >>> composites.kind("dense", "conv")
        kind('dense', 'conv')
    """
    for name in names:
        if name not in KINDS:
            raise ValueError(f"`names`: there is no kind {name!r}; there are {', '.join(KINDS)}")
    text = ", ".join(map(repr, names))
    return NamedPredicate(functools.partial(_kind, names=names), f"kind({text})")


def _kind(operation: Operation, names: tuple[str, ...]) -> bool:
    return operation.kind in names


def first_layer(operation: Operation) -> bool:
    """Tell whether a layer sees x: its inputs are x, moved, scaled or shifted element by element.

    Args:
        operation: an operation of the program.

    Returns:
        True for a first layer, as `xattr.explain` marks it.

    Example:
        >>> from xattr import composites, rules
        >>> flat_first = composites.compose((composites.first_layer, rules.flat()))
    """
    return operation.first


def last_layer(operation: Operation) -> bool:
    """Tell whether no other layer comes after this one.

    Args:
        operation: an operation of the program.

    Returns:
        True for a last layer, as `xattr.explain` marks it; never inside a loop.

    Example:
        >>> from xattr import composites, rules
        >>> stable_last = composites.compose((composites.last_layer, rules.epsilon(0.1)))
    """
    return operation.is_layer and operation.last


def named(name: str) -> Predicate:
    """Return a predicate: the operation lies in a scope of this name.

    Scopes are those of `jax.named_scope` and of flax linen's modules.

    Args:
        name: any part of the path of scopes that `xattr.explain` lists: "Dense_0", "block/conv".

    Returns:
        A predicate `operation -> bool`, for `compose`.

    Example:
        >>> from xattr import composites, rules
        >>> composites.compose((composites.named("head"), rules.epsilon(0.1)))
        Composite(named('head'): epsilon(0.1), ...)
    """
    return NamedPredicate(functools.partial(_named, name=name), f"named({name!r})")


def _named(operation: Operation, name: str) -> bool:
    return f"/{name}/" in f"/{operation.scope}/"


def both(*predicates: Predicate) -> Predicate:
    """Return a predicate: all of these hold.

    Args:
        *predicates: functions `operation -> bool`.

    Returns:
        A predicate `operation -> bool`, for `compose`.

    Example:
        >>> from xattr import composites
        >>> composites.both(composites.conv, composites.first_layer)
        both(kind('conv'), first_layer)
    """
    text = ", ".join(map(shown, predicates))
    return NamedPredicate(functools.partial(_both, predicates=predicates), f"both({text})")


def _both(operation: Operation, predicates: tuple[Predicate, ...]) -> bool:
    return all(holds(operation) for holds in predicates)


def normalization_of_input(operation: Operation) -> bool:
    """Tell whether an operation scales and shifts each element of x."""
    return operation.sees_input and is_elementwise_affine(operation)


# Composites -------------------------------------------------------------------------------------

SOFTMAX = ("softmax", "log_softmax", "logsumexp")

dense = kind("dense")
conv = kind("conv")

BASE: Entries = (
    (normalization_of_input, backward.pass_scaled),
    (kind("sum", "scale", "dense", "conv"), rules.zero()),
    (kind("relu", "relu6", "leaky_relu", "activation", "power"), backward.pass_on),
    (kind("product"), backward.halve),
    (kind("quotient"), backward.halve_quotient),
    (kind("normalizer", "stop_gradient"), backward.constant),
    (kind(*SOFTMAX, "shift", "max", "choice", "complex"), backward.gradient),
)
"""What every relevance composite does beside its layers.

Source: Achtibat et al. 2024, "AttnLRP" (softmax, products, LayerNorm).
"""


def compose(*entries: tuple[Predicate, Backward]) -> Composite:
    """Return an LRP composite with these entries before what all composites share.

    The first predicate that holds decides, so put the special before the general.

    Args:
        *entries: pairs (predicate, rule). A predicate is a function `operation -> bool`:
            `composites.dense`, `conv`, `first_layer`, `last_layer`, `named(...)`, `kind(...)`, or
            one of your own. A rule is one of `xattr.rules` or a function `(call, g) -> gradients`.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Raises:
        TypeError: for an entry that is not a pair of functions.

    Source:
        Montavon et al. 2019, "Layer-wise relevance propagation: an overview", §10.3.

    Example:
        >>> from xattr import composites, rules
        >>> composites.compose((composites.first_layer, rules.flat()),
        ...                    (composites.named("head"), rules.epsilon(0.1)))
        Composite(first_layer: flat(), named('head'): epsilon(0.1), ...)
    """
    for entry in entries:
        if not isinstance(entry, tuple) or len(entry) != 2 or not all(map(callable, entry)):
            raise TypeError(
                "`entries` must be pairs (predicate, rule), such as "
                f"(composites.dense, rules.epsilon(0.1)), not {entry!r}"
            )
    return Composite(entries, shared=BASE)


def every_layer(rule: Backward) -> Composite:
    """Return the composite with one rule for all dense and convolutional layers.

    Args:
        rule: one of `xattr.rules` or a function `(call, g) -> gradients`.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Example:
        >>> from xattr import composites, rules
        >>> composites.every_layer(rules.zero())
        Composite(kind('dense', 'conv'): zero(), ...)
    """
    return compose((kind("dense", "conv"), rule))


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """Return z⁺ for convolutions and ε for dense layers.

    conv: Rᵢ = Σₖ cᵢₖ⁺ / Σⱼ cⱼₖ⁺ Rₖ; dense: Rᵢ = Σₖ cᵢₖ / (zₖ + ε sign zₖ) Rₖ. zennit's maps are
    those of `bias="include"`: the sums then hold the bias, that of z⁺ its positive part.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        zennit's EpsilonPlus; Montavon et al. 2019, "Layer-wise relevance propagation: an overview".

    Example:
        >>> import xattr
        >>> xattr.composites.epsilon_plus()
        Composite(kind('conv'): z_plus(), kind('dense'): epsilon(1e-06), ...)
    """
    return compose((conv, rules.z_plus()), (dense, rules.epsilon(epsilon)))


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """Return `epsilon_plus` with the flat rule for first layers.

    first: Rᵢ = Σₖ Rₖ / (number of inputs of k); conv z⁺, dense ε.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        zennit's EpsilonPlusFlat.

    Example:
        >>> import xattr
        >>> xattr.composites.epsilon_plus_flat()
        Composite(first_layer: flat(), kind('conv'): z_plus(), kind('dense'): epsilon(1e-06), ...)
    """
    return _flat(epsilon_plus(epsilon))


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """Return α2β1 for convolutions and ε for dense layers.

    conv: Rᵢ = Σₖ (2 cᵢₖ⁺ / Σⱼ cⱼₖ⁺ − cᵢₖ⁻ / Σⱼ cⱼₖ⁻) Rₖ; dense ε.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        zennit's EpsilonAlpha2Beta1; Bach et al. 2015.

    Example:
        >>> import xattr
        >>> xattr.composites.epsilon_alpha2_beta1()
        Composite(kind('conv'): alpha_beta(2, 1), kind('dense'): epsilon(1e-06), ...)
    """
    return compose((conv, rules.alpha_beta(2.0, 1.0)), (dense, rules.epsilon(epsilon)))


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """Return `epsilon_alpha2_beta1` with the flat rule for first layers.

    first: Rᵢ = Σₖ Rₖ / (number of inputs of k); conv α2β1, dense ε.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        zennit's EpsilonAlpha2Beta1Flat.

    Example:
        >>> import xattr
        >>> xattr.composites.epsilon_alpha2_beta1_flat(0.1)
        Composite(first_layer: flat(), kind('conv'): alpha_beta(2, 1),
                  kind('dense'): epsilon(0.1), ...)
    """
    return _flat(epsilon_alpha2_beta1(epsilon))


def preset_a(epsilon: float = 0.1) -> Composite:
    """Return α1β0 for convolutions and ε for dense layers.

    conv: Rᵢ = Σₖ cᵢₖ⁺ / Σⱼ cⱼₖ⁺ Rₖ, a positive bias in the sum if `bias="include"`; dense ε = 0.1.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        iNNvestigate's LRP-PresetA.

    Example:
        >>> import xattr
        >>> xattr.composites.preset_a()
        Composite(kind('conv'): alpha_beta(1, 0), kind('dense'): epsilon(0.1), ...)
    """
    return compose((conv, rules.alpha_beta(1.0, 0.0)), (dense, rules.epsilon(epsilon)))


def preset_a_flat(epsilon: float = 0.1) -> Composite:
    """Return `preset_a` with the flat rule for first layers.

    first: Rᵢ = Σₖ Rₖ / (number of inputs of k); conv α1β0, dense ε.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        iNNvestigate's LRP-PresetAFlat.

    Example:
        >>> import xattr
        >>> xattr.composites.preset_a_flat()
        Composite(first_layer: flat(), kind('conv'): alpha_beta(1, 0),
                  kind('dense'): epsilon(0.1), ...)
    """
    return _flat(preset_a(epsilon))


def preset_b(epsilon: float = 0.1) -> Composite:
    """Return α2β1 for convolutions and ε for dense layers.

    conv: Rᵢ = Σₖ (2 cᵢₖ⁺ / Σⱼ cⱼₖ⁺ − cᵢₖ⁻ / Σⱼ cⱼₖ⁻) Rₖ; dense ε = 0.1.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        iNNvestigate's LRP-PresetB.

    Example:
        >>> import xattr
        >>> xattr.composites.preset_b()
        Composite(kind('conv'): alpha_beta(2, 1), kind('dense'): epsilon(0.1), ...)
    """
    return epsilon_alpha2_beta1(epsilon)


def preset_b_flat(epsilon: float = 0.1) -> Composite:
    """Return `preset_b` with the flat rule for first layers.

    first: Rᵢ = Σₖ Rₖ / (number of inputs of k); conv α2β1, dense ε.

    Args:
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.

    Returns:
        A `Composite`, for `xattr.lrp` and `xattr.with_rules`.

    Source:
        iNNvestigate's LRP-PresetBFlat.

    Example:
        >>> import xattr
        >>> xattr.composites.preset_b_flat()
        Composite(first_layer: flat(), kind('conv'): alpha_beta(2, 1),
                  kind('dense'): epsilon(0.1), ...)
    """
    return _flat(preset_b(epsilon))


def epsilon_gamma_box(
    low: Array | float, high: Array | float, *, epsilon: float = 1e-6, gamma: float = 0.25
) -> Composite:
    """Return z^B for first layers, γ for convolutions and ε for dense layers.

    first: Rᵢ = Σₖ (xᵢ wᵢₖ − lᵢ wᵢₖ⁺ − hᵢ wᵢₖ⁻) / (Σⱼ …) Rₖ; conv γ, dense ε.

    Args:
        low: the smallest x, l: a number or an array that broadcasts to every leaf of x, in units of
            x.
        high: the largest x, h: a number or an array, as `low` is.
        epsilon: the stabilizer ε ≥ 0 of dense layers, in units of their output.
        gamma: γ ≥ 0 of convolutions, see `rules.gamma`.

    Returns:
        A `Composite`, for `xattr.lrp`: the bounds need x, which `xattr.with_rules` does not know.

    Source:
        zennit's EpsilonGammaBox; Montavon et al. 2019, "Layer-wise relevance propagation: an
        overview", §10.3.

    Example:
        >>> import xattr
        >>> xattr.composites.epsilon_gamma_box(0.0, 1.0)
        Composite(first_layer: z_box(0, 1), kind('conv'): gamma(0.25),
                  kind('dense'): epsilon(1e-06), ...)
    """
    return compose(
        (first_layer, rules.z_box(low, high)),
        (conv, rules.gamma(gamma)),
        (dense, rules.epsilon(epsilon)),
    )


def _flat(composite: Composite) -> Composite:
    return composite._replace(entries=((first_layer, rules.flat()), *composite.entries))
