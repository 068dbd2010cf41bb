"""`python -m tests.mutants`."""

import signal
import sys

from tests.mutants import run

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the clean-up runs
    sys.exit(run.main())
