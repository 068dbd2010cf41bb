"""What every test gets: eight CPU devices, strict promotion, repeatable examples of hypothesis."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

if version("jaxlib").startswith("0.10."):  # later versions do not know the flag
    # Without these emitters programs are slower, but compiling takes two thirds of the time.
    flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # A cache on disk shares compiled programs between files, workers and the processes that tests
    # start. Tests that count compilations are not affected, because JAX also reports programs that
    # it finds in the cache. It finds them only in processes with the same number of devices.
    programs = os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="xattr-tests-")
    atexit.register(shutil.rmtree, programs, ignore_errors=True)
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

os.environ["JAX_NUM_CPU_DEVICES"] = "8"

import hypothesis
import jax
import matplotlib as mpl
import pytest

mpl.use("Agg")
jax.config.update("jax_disable_most_optimizations", True)  # compiling takes most of the time
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")
hypothesis.settings.register_profile(
    "repeatable",
    derandomize=True,
    deadline=None,
    database=None,
    max_examples=25,
    # Without `explain`: it traces every line that a test runs, which can double the test's time.
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate, hypothesis.Phase.shrink],
)
hypothesis.settings.load_profile("repeatable")

LONGEST = ("experiments", "notebooks", "demo", "efficientnet", "axiom_table", "readme", "dtypes")
"""Files that start first, because a long file that starts last keeps only one worker busy."""


def pytest_collection_modifyitems(items):
    """Put the files of `LONGEST` first, in that order."""
    ranks = {f"test_{name}.py": rank for rank, name in enumerate(LONGEST)}
    items.sort(key=lambda item: ranks.get(item.path.name, len(ranks)))


@pytest.fixture
def x64():
    """Run the test in float64."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(autouse=True, scope="module")
def _no_programs_of_earlier_modules():
    """Forget compiled programs after every file of tests.

    A program takes some ten memory mappings, Linux allows a process 65,530, and XLA crashes with a
    segmentation fault when it gets no more. Garbage collection is faster with fewer objects, too.
    """
    yield
    jax.clear_caches()
    gc.collect()
