"""Operations: the equations of a program as backward rules see them, and their kinds."""

import dataclasses
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias

from xattr._program import jaxpr
from xattr._program.jaxpr import Equation, Program, Value, p

Mode: TypeAlias = Literal["gradient", "relevance", "difference"]
"""Rule family: signals (guided, patterns), relevance (LRP) or differences (DeepLIFT).

For relevance a normalizer (the 1/√variance of a LayerNorm) and what stands behind `stop_gradient`
are constants; for differences nothing is a constant.
"""

KINDS = {
    "dense": "a product with a weight matrix, with its bias and scale",
    "conv": "a convolution, with its bias and normalization",
    "sum": "a sum, mean or average pool, with its constants",
    "scale": "a product with an array of constants, with its bias",
    "move": "elements moved or copied, signs, scalar factors",
    "relu": "max(x, 0)",
    "relu6": "min(max(x, 0), 6)",
    "leaky_relu": "x or a fraction of it",
    "activation": "a function of each element",
    "power": "a power, exponential or logarithm of each element",
    "product": "a product of two values that depend on x",
    "quotient": "a quotient of two values that depend on x",
    "complex": "a linear map of complex values (a Fourier transform, a filter), or |z|",
    "max": "a maximum, minimum or sorting, also by segments",
    "choice": "a choice between values, or a mask",
    "softmax": "exp(x) / Σ exp(x)",
    "log_softmax": "x − log Σ exp(x)",
    "logsumexp": "log Σ exp(x)",
    "shift": "a value without a gradient, added",
    "normalizer": "one over a deviation or a norm",
    "stop_gradient": "a value without a gradient",
    "control": "scan, cond or checkpoint",
    "layer and activation": "an affine operation and the activation behind it, as one",
    "constant": "does not depend on x",
    "other": "anything else",
}


@dataclasses.dataclass(frozen=True, eq=False)
class Operation:
    """Equations that one rule treats together. Two operations are equal if they are one object."""

    kind: str
    equations: Sequence[Equation]
    inputs: Sequence[Value]
    """The values that depend on x and carry relevance."""
    constants: Sequence[Value]
    """The other values: weights, biases, masks."""
    outputs: Sequence[Value]

    # What its equations tell.
    slope: float = 0.0
    """The slope of a leaky ReLU below zero."""
    smooth: bool = True
    """Whether a function of each element has no kink."""
    inverse: int | None = None
    """Which factor of a product is one over another value."""
    is_largest: bool = False
    """Whether it is a maximum over an axis: the shift of a softmax."""
    resamples: bool = False
    """Whether an array is resized or cut into patches, by weights that JAX computes."""
    choice: Equation | None = None
    """The equation that made a bool or a whole number of x, if the operation depends on x so."""

    # What its place in the program tells.
    index: int = -1
    """Its position in the list of operations."""
    sees_input: bool = False
    """Whether the inputs are x, resized, moved or scaled element by element."""
    moves_input: bool = False
    """Whether the outputs, too, are x moved or scaled element by element."""
    nonnegative: bool = False
    """Whether no input can be negative."""
    branches: bool = False
    """Whether it is a sum that several operations read, as along a residual stream."""
    last: bool = False
    """Whether no layer comes after it."""

    # What it is made of.
    bodies: Sequence["Recognised"] = ()
    """Those of branches, a call or a loop; of a loop's first steps, then of the rest."""
    parts: tuple["Operation", ...] = ()
    """The layer and the activation that it joins."""

    @property
    def main(self) -> Equation:
        """The equation that names the operation: that with the weights, or the last."""
        weighted = [e for e in self.equations if e.primitive in jaxpr.WEIGHTED]
        return weighted[0] if weighted else self.equations[-1]

    @property
    def output(self) -> Value:
        """The first, or only, result."""
        return self.outputs[0]

    @property
    def scope(self) -> str:
        """The named scopes around it."""
        return self.main.scope

    @property
    def is_layer(self) -> bool:
        """Whether it has weights."""
        return self.kind in ("dense", "conv")

    @property
    def first(self) -> bool:
        """Whether it is a layer that sees x."""
        return self.sees_input and self.is_layer

    @property
    def is_affine(self) -> bool:
        """Whether it is a linear map of its inputs plus a constant."""
        return self.kind in ("dense", "conv", "sum", "scale", "move")

    @property
    def data(self) -> set[Value]:
        """The inputs, and what is made of them on the way to the output."""
        return {*self.inputs, *(v for e in self.equations for v in e.outputs)}

    @property
    def has_offset(self) -> bool:
        """Whether an affine operation adds a constant."""
        data = self.data
        sums = [e for e in self.equations if e.primitive in jaxpr.ADDITIONS]
        return any(v not in data for e in sums for v in e.inputs)

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes that a softmax sums over."""
        sums = [e for e in self.equations if e.primitive is p.reduce_sum_p]
        return tuple(sums[-1].params["axes"]) if sums else ()

    @property
    def selects(self) -> bool:
        """Whether it picks the largest or the smallest of several elements."""
        pair = (p.max_p, p.min_p)
        return self.main.primitive in {*jaxpr.LARGEST, *jaxpr.SMALLEST, *pair}

    @property
    def selects_largest(self) -> bool:
        """Whether it is the largest that it picks."""
        return self.main.primitive in {*jaxpr.LARGEST, p.max_p}

    @property
    def primitives(self) -> str:
        """The names of its primitives; of more than four, the first two and the last."""
        names = [e.name for e in self.equations]
        return " ".join(names if len(names) <= 4 else [*names[:2], "...", names[-1]])

    @property
    def shapes(self) -> str:
        """Dtypes and shapes of what goes in and what comes out."""
        return f"{', '.join(map(str, self.inputs or self.constants))} -> {self.outputs[0]}"

    def describe(self) -> str:
        """Return its primitives, shapes and source line in one line."""
        return f"{self.primitives} ({self.shapes}) at {self.main.source}"


class Recognised(NamedTuple):
    """A program as a list of operations."""

    program: Program
    operations: Sequence[Operation]
