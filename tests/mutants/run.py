"""Break the library on purpose, one mutant at a time, and see whether its tests notice.

Each mutant gets a copy of the repository with its text in place of the original, and its tests run
there. A mutant is killed if an assertion of one of them fails, and has survived if all pass. It is
broken if the copy cannot be run, or if a test crashes before its assertion; a broken mutant proves
nothing. Before that, the same tests must pass in a copy without a mutant.

    python -m tests.mutants                        all of them, two at a time
    python -m tests.mutants lrp-gamma-sign-swapped --jobs 1
    python -m tests.mutants --out mutants.md       with the table in a file
    python -m tests.mutants --list

The exit status is 0 if all were killed, 1 if not, 2 if the tests fail without a mutant. A new
mutant is an entry of `tests/mutants/mutants.py`.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from tests.mutants.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
TREE = ("xattr", "tests", "paper_repro", "notebooks", "pyproject.toml", "README.md")
"""What the tests need of the repository."""

RECORDER = Path(__file__).with_name("recorder.py")
OPTIONS = ("-x", "-q", "-n", "0", "-p", "no:cacheprovider")


class Verdict(NamedTuple):
    """The result for a mutant, "killed", "SURVIVED" or "broken", and the test or the reason."""

    mutant: object
    status: str
    detail: str
    seconds: float


class StoppedError(Exception):
    """The runs were stopped before they were done."""


class UnmutatedError(Exception):
    """The tests fail without a mutant."""


class Runner:
    """Runs tests in copies of a repository; `stop` ends all of them."""

    def __init__(self, root, scratch, timeout=600.0):
        self.root, self.scratch, self.timeout = Path(root).resolve(), Path(scratch), timeout
        self.original = self.scratch / "original"
        self.lock, self.live, self.stopped = threading.Lock(), set(), False
        # All mutants start from one copy, because files may be edited while they run.
        self.original.mkdir()
        for name in TREE:
            source = self.root / name
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__", ".*")
                shutil.copytree(source, self.original / name, ignore=ignored)
            elif source.exists():
                shutil.copy2(source, self.original / name)

    def check_original(self, tests):
        """Return why the tests do not pass without a mutant, or None."""
        files = {test.partition("::")[0] for test in tests}
        missing = sorted(file for file in files if not (self.original / file).exists())
        if missing:
            return f"no such file: {', '.join(missing)}"
        report = self.run(self.original, tests, self.timeout * 4, OPTIONS[1:])
        if isinstance(report, str):
            return report
        if report["status"] == 0:
            return self._from_elsewhere(report)
        failed = [f"{each['test']}: {each['error']}" for each in report["failures"]]
        return "\n".join(failed or [f"pytest ends with status {report['status']}"])

    def check(self, mutant):
        """Return the verdict on one mutant."""
        start = time.monotonic()
        status, detail = self._verdict(mutant)
        return Verdict(mutant, status, detail, time.monotonic() - start)

    def _verdict(self, mutant):
        source = (self.original / mutant.file).read_text()
        if source.count(mutant.old) != 1:
            return "broken", f"the text to replace is there {source.count(mutant.old)} times"
        copy = self.scratch / mutant.name
        try:
            shutil.copytree(self.original, copy)
            (copy / mutant.file).write_text(source.replace(mutant.old, mutant.new))
            report = self.run(copy, mutant.tests, self.timeout)
        finally:
            shutil.rmtree(copy, ignore_errors=True)
        if isinstance(report, str):
            return "broken", report
        if str(copy / mutant.file) not in report["files"]:
            return "broken", f"the tests do not import {mutant.file} of the copy"
        for failure in report["failures"]:
            if failure["wrong value"]:
                return "killed", failure["test"]
            return "broken", f"{failure['test']}: {failure['error']}"
        if report["status"] or not report["ran"]:
            return "broken", f"pytest ends with status {report['status']}"
        return "SURVIVED", f"{report['ran']} tests pass"

    def run(self, folder, tests, timeout, options=OPTIONS):
        """Run tests in a folder; return the report of the recorder, or why there is none."""
        report = folder / "report.json"
        variables = {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        # -P keeps the recorder's folder off sys.path, where its modules would shadow others.
        command = [sys.executable, "-P", str(RECORDER), str(report), *options, *tests]
        with self.lock:
            if self.stopped:
                raise StoppedError
            process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            self.live.add(process)
        try:
            output, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            return f"not done after {timeout:.0f} s"
        finally:
            with self.lock:
                end(process)
                self.live.discard(process)
            process.stdout.close()
        if self.stopped:
            raise StoppedError
        if not report.exists():
            return f"pytest did not come to its end: {output.strip()[-200:]}"
        return json.loads(report.read_text())

    def _from_elsewhere(self, report):
        """Return the files that were not imported from the copy, or None."""
        places = [str(self.root / name) + os.sep for name in TREE]
        found = [file for file in report["files"] if file.startswith(tuple(places))]
        return f"imported from outside of the copy: {', '.join(found)}" if found else None

    def stop(self):
        """End all runs, and start no other."""
        with self.lock:
            self.stopped = True
            for process in self.live:
                end(process)


def end(process):
    """End a process and the processes that it has started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def verdicts(mutants, root, jobs, progress=tqdm):
    """Yield the verdict on each mutant; raise `UnmutatedError` if the tests fail without one."""
    with tempfile.TemporaryDirectory(prefix="mutants-") as scratch:
        runner = Runner(root, Path(scratch).resolve())
        with ThreadPoolExecutor(jobs) as pool:
            try:
                tests = dict.fromkeys(test for mutant in mutants for test in mutant.tests)
                print(f"{len(tests)} selections of tests, without a mutant ...", file=sys.stderr)
                trouble = runner.check_original(tests)
                if trouble:
                    raise UnmutatedError(f"the tests fail without a mutant:\n{trouble}")
                todo = [pool.submit(runner.check, mutant) for mutant in mutants]
                with progress(total=len(todo), unit="mutant") as bar:
                    for future in as_completed(todo):
                        yield future.result()
                        bar.update()
            finally:  # also after Ctrl-C
                runner.stop()
                pool.shutdown(cancel_futures=True)


def table(found):
    """Return the verdicts as Markdown."""
    counts = dict.fromkeys(("killed", "SURVIVED", "broken"), 0)
    rows = ["| mutant | file | what is broken | verdict | by | s |", "|---|---|---|---|---|---|"]
    for verdict in found:
        mutant, detail = verdict.mutant, verdict.detail.replace("|", "\\|").replace("\n", " ")
        counts[verdict.status] += 1
        cells = (mutant.name, mutant.file, mutant.breaks, verdict.status, detail)
        rows.append(f"| {' | '.join(cells)} | {verdict.seconds:.0f} |")
    summary = ", ".join(f"{count} {status}" for status, count in counts.items())
    return "\n".join([*rows, "", f"{len(found)} mutants: {summary}.", ""])


def write(text, file):
    """Write a file, which is there only once it is complete."""
    half = Path(f"{file}.partial")
    try:
        half.write_text(text)
        os.replace(half, file)
    finally:
        half.unlink(missing_ok=True)


def chosen(names, mutants):
    """Return the mutants with these names, or all if no name is given."""
    unknown = sorted(set(names) - {mutant.name for mutant in mutants})
    if unknown:
        raise SystemExit(f"no mutant has the name {', '.join(unknown)}: --list shows them all")
    return [mutant for mutant in mutants if not names or mutant.name in names]


def main(arguments=None, mutants=MUTANTS, root=ROOT):
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("names", nargs="*", metavar="NAME", help="mutants to try; all if none")
    parser.add_argument("--jobs", type=int, default=2, help="how many at a time (2)")
    parser.add_argument("--out", metavar="FILE", help="write the table there, too")
    parser.add_argument("--list", action="store_true", help="list the mutants and end")
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error(f"--jobs must be at least 1, not {options.jobs}")
    mutants = chosen(options.names, mutants)
    if options.list:
        for mutant in mutants:
            print(f"{mutant.name:44} {mutant.breaks}")
        return 0
    start, found = time.monotonic(), []
    try:
        for verdict in verdicts(mutants, root, options.jobs):
            found.append(verdict)
            tqdm.write(f"{verdict.status:8} {verdict.mutant.name}: {verdict.detail}", sys.stderr)
    except UnmutatedError as error:
        print(error, file=sys.stderr)
        return 2
    found.sort(key=lambda verdict: mutants.index(verdict.mutant))
    text = table(found)
    print(text + f"\n{time.monotonic() - start:.0f} s")
    if options.out:
        write(text, options.out)
    return int(any(verdict.status != "killed" for verdict in found))
