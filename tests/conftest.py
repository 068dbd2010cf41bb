"""Eight CPU devices, strict promotion, repeatable hypothesis: for every test."""

import atexit
import gc
import os
import shutil
import tempfile
from importlib.metadata import version

if version("jaxlib").startswith("0.10."):  # later ones do not know the flag
    # Compiling takes two thirds of the time without the emitters that make the fastest programs.
    flags = (os.environ.get("XLA_FLAGS", ""), "--xla_cpu_use_fusion_emitters=false")
    os.environ["XLA_FLAGS"] = " ".join(flags)

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # What one file of tests has compiled is there for the next, the other worker and the processes
    # that tests start. Compilations are counted as before: JAX tells of those that it finds, too.
    # It finds them where there are as many devices.
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
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=25
)
hypothesis.settings.load_profile("repeatable")

LONGEST = ("experiments", "notebooks", "demo", "efficientnet", "axiom_table", "readme", "dtypes")
"""Files that are begun first: a worker that begins one last keeps the other waiting."""


def pytest_collection_modifyitems(items):
    """Put the longest files first, in the order in which they are written here."""
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

    A program maps some ten pieces of memory, Linux allows a process 65,530, and XLA ends with a
    segmentation fault where it gets no more. Fewer objects are quicker to collect, too.
    """
    yield
    jax.clear_caches()
    gc.collect()
