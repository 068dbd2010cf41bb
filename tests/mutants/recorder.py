"""Run pytest in this process and write a report: `recorder.py REPORT [options of pytest]`.

It is a script without imports from the repository, so that it works in any copy of it.
"""

import json
import sys
from pathlib import Path

import pytest


class Recorder:
    """Records the failures, their kinds of error, and the files that were imported."""

    def __init__(self):
        self.failures, self.ran = [], 0

    def pytest_runtest_logreport(self, report):
        self.ran += report.when == "call"

    def pytest_exception_interact(self, node, call, report):
        error = call.excinfo.value
        # Otherwise the fault is in a fixture or in an import.
        is_test = getattr(report, "when", "collect") == "call"
        text = f"{type(error).__name__}: {error}".split("\n")[0][:120]
        wrong = is_test and is_wrong_value(error)
        self.failures.append({"test": node.nodeid, "wrong value": wrong, "error": text})

    def report(self, status):
        modules = [module for name, module in [*sys.modules.items()] if name != "__main__"]
        files = {str(getattr(module, "__file__", None)) for module in modules}
        return {
            "status": int(status),
            "ran": self.ran,
            "failures": self.failures,
            "files": sorted(files),
        }


def is_wrong_value(error):
    """Tell whether a test compared and found a difference, rather than crashed."""
    if isinstance(error, BaseExceptionGroup):  # several kinds of example, by hypothesis
        return all(map(is_wrong_value, error.exceptions))
    return isinstance(error, (AssertionError, pytest.fail.Exception))


if __name__ == "__main__":
    recorder = Recorder()
    status = pytest.main(sys.argv[2:], plugins=[recorder])
    Path(sys.argv[1]).write_text(json.dumps(recorder.report(status)))
