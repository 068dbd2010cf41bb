"""The versions of JAX that the library knows, and what it says of a program that it cannot read.

How JAX writes a traced program is not part of its stable interface. Rules need to read one and
raise `UnreadableProgramError` where they cannot; an optimisation steps aside.
"""

import contextlib
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import jax

from xattr.types import UnreadableProgramError

OLDEST, NEWEST = "0.10.0", "0.12"
"""The versions of JAX that the tests run on, from and to."""


def unreadable(why: object) -> UnreadableProgramError:
    """Return the error for a program that JAX writes in an unknown way."""
    return UnreadableProgramError(
        f"xattr-jax {version('xattr-jax')} cannot read the program that JAX {jax.__version__} "
        f"traced ({why}): it is tested with JAX {OLDEST} to {NEWEST}; install a JAX of that range, "
        "or a newer xattr-jax"
    )


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Raise `UnreadableProgramError` for any error of the block, which only reads a program."""
    try:
        yield
    except UnreadableProgramError:
        raise
    except Exception as error:
        raise unreadable(f"{type(error).__name__}: {error}") from error


def step_aside(error: UnreadableProgramError) -> None:
    """Warn, once, that an optimisation does without a program that it cannot read."""
    message = f"slower than it could be, with the same result: {error}"
    warnings.warn(message, RuntimeWarning, stacklevel=1)


class Params(dict[str, object]):
    """The parameters of a primitive; one that JAX does not give makes the program unreadable."""

    def __missing__(self, name: str) -> object:
        raise unreadable(f"an operation has no parameter {name!r}")
