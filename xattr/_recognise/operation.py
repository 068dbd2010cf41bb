"""Sites: the operations of a program as backward rules see them, and their kinds."""

from typing import Literal, NamedTuple, TypeAlias

from xattr._program import jaxpr
from xattr._program.jaxpr import Equation, Program, Value, p

Mode: TypeAlias = Literal["gradient", "relevance", "difference"]
"""Whose rules the program is read for: of signals, of relevance, or of differences to a reference.

For relevance a normalizer (the 1/√variance of a LayerNorm) and what stands behind `stop_gradient`
are constants; for differences nothing is.
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
    "layer and activation": "an affine site and the activation behind it, as one",
    "constant": "does not depend on x",
    "other": "anything else",
}


class Site:
    """Equations that one rule treats together."""

    def __init__(
        self,
        kind: str,
        equations: list[Equation],
        inputs: list[Value],
        constants: list[Value],
        outputs: list[Value],
    ) -> None:
        self.kind = kind
        self.equations = equations
        self.inputs = inputs
        """The values that depend on x and carry relevance."""
        self.constants = constants
        """The other values: weights, biases, masks."""
        self.outputs = outputs
        self.nonnegative = False
        """Whether no input can be negative."""
        self.sees_input = False
        """Whether the inputs are x, resized, moved or scaled element by element."""
        self.zone_inputs: set[Value] = set()
        self.moves_input = False
        """Whether the outputs, too, are x moved or scaled element by element."""
        self.resamples = False
        """Whether an array is resized or cut into patches, by weights that JAX computes."""
        self.branches = False
        """Whether it is a sum that several sites read, as along a residual stream."""
        self.first = False
        self.last = False
        self.slope = 0.0
        """Of a leaky ReLU, below zero."""
        self.smooth = True
        """Whether a function of each element has no kink."""
        self.choice: Equation | None = None
        """Where a value that depends on x became a bool or a whole number, if it is made of one."""
        self.inverse: int | None = None
        """Which factor of a product is one over another value."""
        self.is_largest = False
        """Whether it is a maximum over an axis: the shift of a softmax."""
        self.bodies: list[Recognised] = []
        """Those of branches, a call or a loop; of a loop's first steps, then of the rest."""
        self.parts: tuple[Site, ...] = ()
        self.index = -1

    @property
    def main(self) -> Equation:
        """The equation that names the site: that with the weights, or the last."""
        weighted = [e for e in self.equations if e.primitive in jaxpr.WEIGHTED]
        return weighted[0] if weighted else self.equations[-1]

    @property
    def output(self) -> Value:
        """The result."""
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
    def is_affine(self) -> bool:
        """Whether it is a linear map of its inputs plus a constant."""
        return self.kind in ("dense", "conv", "sum", "scale", "move")

    @property
    def data(self) -> set[Value]:
        """The inputs, and what is made of them on the way to the output."""
        return {*self.inputs, *(v for e in self.equations for v in e.outputs)}

    @property
    def has_offset(self) -> bool:
        """Whether an affine site adds a constant."""
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

    def describe(self) -> str:
        """Name primitives, shapes and the source line."""
        names = [e.name for e in self.equations]
        short = names if len(names) <= 4 else [*names[:2], "...", names[-1]]
        shapes = ", ".join(map(str, self.inputs or self.constants))
        return f"{' '.join(short)} ({shapes} -> {self.outputs[0]}) at {self.main.source}"


class Recognised(NamedTuple):
    """A program as a list of sites."""

    program: Program
    sites: list[Site]
