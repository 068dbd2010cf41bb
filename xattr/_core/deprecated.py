"""Spellings of an earlier release: each still works, with a warning that names the new one."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


def warn(text: str, stacklevel: int = 3) -> None:
    """Warn the caller of a public function of a spelling that the next release drops."""
    warnings.warn(f"{text}; the next release drops this", DeprecationWarning, stacklevel)


def renamed(**names: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Accept keywords under their old names: `renamed(old="new")`."""

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
    """Accept keyword-only arguments by position, in the order of the signature."""
    names = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def accepting(*args: Any, **keywords: Any) -> R:
        if args:
            given = dict(zip(names, args, strict=False))
            if len(args) > len(names) or given.keys() & keywords.keys():
                return function(*args, **keywords)  # Python names what is wrong
            spelling = ", ".join(f"{name}=..." for name in given)
            warn(f"`{function.__name__}` takes its arguments by keyword: write {spelling}")
            keywords = {**given, **keywords}
        return function(**keywords)  # type: ignore[call-arg]

    return accepting
