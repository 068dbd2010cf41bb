"""A progress bar on stderr for the loop of an experiment."""

from collections.abc import Iterable
from typing import Any

import tqdm


def shown(work: Iterable[Any], text: str, progress: bool) -> Iterable[Any]:
    """Return the items of `work`; with `progress`, a bar named `text` counts them."""
    return tqdm.tqdm(work, desc=text, leave=False, disable=not progress)
