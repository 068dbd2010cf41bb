"""The versions of JAX that the library can read, and what it does about other programs.

How JAX writes a traced program is not part of its stable interface. Rules need to read it, and
raise `UnreadableProgramError` if they cannot. An optimisation is skipped instead, with a warning.
"""

import contextlib
import warnings
from collections.abc import Iterator
from importlib.metadata import version

import jax

from xattr.types import UnreadableProgramError

OLDEST, NEWEST = "0.10.0", "0.12"
"""The oldest and the newest JAX that the tests run on."""


def unreadable(why: object) -> UnreadableProgramError:
    """Return the error for a program that is not written as expected."""
    return UnreadableProgramError(
        f"xattr-jax {version('xattr-jax')} cannot read the program that JAX {jax.__version__} "
        f"traced ({why}): it is tested with JAX {OLDEST} to {NEWEST}; install a JAX of that range, "
        "or a newer xattr-jax"
    )


@contextlib.contextmanager
def reading() -> Iterator[None]:
    """Turn any error of the block into `UnreadableProgramError`. The block only reads a program."""
    try:
        yield
    except UnreadableProgramError:
        raise
    except Exception as error:
        raise unreadable(f"{type(error).__name__}: {error}") from error


def step_aside(error: UnreadableProgramError) -> None:
    """Warn, once, that an optimisation is skipped because the program cannot be read."""
    message = f"slower than it could be, with the same result: {error}"
    warnings.warn(message, RuntimeWarning, stacklevel=1)


class Params(dict[str, object]):
    """The parameters of a primitive. One that is missing raises `UnreadableProgramError`."""

    def __missing__(self, name: str) -> object:
        raise unreadable(f"an operation has no parameter {name!r}")
