"""Old spellings: each works for one more release, with a warning that gives the new spelling."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from xattr._core import caller

P = ParamSpec("P")
R = TypeVar("R")


def warn(text: str) -> None:
    """Warn the caller of a public function that the next release drops a spelling."""
    caller.warn(f"{text}; the next release drops this", DeprecationWarning)


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept renamed keyword arguments under their old names too: `renamed(old="new")`."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def accepting(*args: Any, **keywords: Any) -> R:
            for old in names.keys() & keywords.keys():
                new = names[old]
                if new in keywords:
                    raise TypeError(f"`{function.__name__}` got `{new}` and its old name `{old}`")
                warn(f"`{function.__name__}({old}=...)` is now `{function.__name__}({new}=...)`")
                keywords[new] = keywords.pop(old)
            return function(*args, **keywords)

        return accepting

    return decorate


def by_keyword(function: Callable[P, R]) -> Callable[P, R]:
    """Accept keyword-only arguments by position too, in the order of the signature."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def accepting(*args: Any, **keywords: Any) -> R:
        if args:
            given = dict(zip(names, args, strict=False))
            if len(args) > len(names) or given.keys() & keywords.keys():
                return function(*args, **keywords)  # raises Python's own error
            spelling = ", ".join(f"{name}=..." for name in given)
            warn(f"`{function.__name__}` takes its arguments by keyword: write {spelling}")
            keywords = {**given, **keywords}
        return function(**keywords)  # type: ignore[call-arg]

    return accepting
