"""Warnings that name the caller's line of code, not a line of this library or of JAX."""

import sys
import traceback
import warnings
from itertools import takewhile

_PASSED_OVER = ("xattr", "jax")
"""Packages whose frames are skipped: f is traced by JAX, which calls this library again."""


def warn(message: str, category: type[Warning]) -> None:
    """Warn at the innermost line of code that belongs to neither this library nor JAX."""
    # Python 3.12 has `skip_file_prefixes` for this; 3.11 has not.
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    inside = takewhile(
        lambda frame: str(frame.f_globals.get("__name__")).split(".")[0] in _PASSED_OVER, frames
    )
    warnings.warn(message, category, stacklevel=2 + sum(1 for _ in inside))
