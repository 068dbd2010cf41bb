"""Count what was compiled."""

import contextlib
from collections import Counter
from collections.abc import Iterator

import jax

KERNEL = "path_kernel"
"""The name of the one compiled function that all path attributions share."""

KERNELS = (
    KERNEL,
    "ruled_kernel",
    "relevance_kernel",
    "deep_lift_kernel",
    "competitive_kernel",
)
"""The names of the functions that the methods compile: paths, guided backpropagation and DeConvNet,
LRP, DeepLIFT, competitive gradient × input."""

_COMPILE_EVENT = "/jax/core/compile/backend_compile_duration"


@contextlib.contextmanager
def count_compilations() -> Iterator[Counter[str]]:
    """Count the compilations inside a `with` block, by the name of the compiled function.

    counts[name] = number of programs compiled by XLA under that name.

    Returns:
        A context manager whose value is a `Counter`, filled while the block runs.

    Source:
        `jax.monitoring`, event "/jax/core/compile/backend_compile_duration".

    Example:
        >>> import jax.numpy as jnp, xattr
        >>> f = lambda x: jnp.sum(x**2)
        >>> with count_compilations() as counts:
        ...     for value in (1.0, 2.0):
        ...         _ = xattr.integrated_gradients(f, jnp.full(3, value))
        >>> counts[KERNEL]
        1
    """
    counts: Counter[str] = Counter()

    def listen(event: str, duration_secs: float, **labels: str | int) -> None:
        if event == _COMPILE_EVENT:
            name = str(labels.get("fun_name", ""))
            counts[name.removeprefix("jit(").removesuffix(")")] += 1

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield counts
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
