"""A library in a process of its own, and its time beside the limit's."""

import json
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.environment import HERE, quiet
from benchmarks.limit import limit_times

OURS = "pm_gplvm"


@contextmanager
def table_file(Y, X0):
    """Y and X0 in a file, for the processes to read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        np.savez(path, Y=Y, X0=X0)
        yield path


class Subject:
    """Talks to `driver.py`, one line of JSON each way."""

    def __init__(self, python: Path | str, module: Path, table: Path, **options):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in __exit__
        command = [str(python), "-P", str(HERE / "driver.py"), str(module), str(table)]
        self._process = subprocess.Popen(
            [*command, json.dumps(options)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=quiet(),
        )
        self.facts = self._answer()

    def _answer(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().strip().splitlines()[-1:] or ["no message"]
        raise RuntimeError(last[0])

    def _ask(self, *words) -> dict:
        print(*words, file=self._process.stdin, flush=True)
        return self._answer()

    def evaluate(self, seconds: float, least: int) -> list[float]:
        """CPU seconds of single values and gradients."""
        return self._ask("evaluate", seconds, least)["cpu"]

    def climb(self, cap: float) -> dict:
        """Trace of an optimisation from the common start, up to `cap` CPU seconds."""
        return self._ask("climb", cap)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
        self._errors.close()


def ours(table: Path, **options) -> Subject:
    return Subject(sys.executable, HERE / "ours.py", table, **options)


def beside_limit(subject: Subject, N: int, rounds: int, seconds: float) -> dict:
    """Medians of the subject's time and of the limit's, measured in turns."""
    limit, own = [], []
    subject.evaluate(0.0, 2)
    for _ in range(rounds):
        limit += limit_times(N, seconds, 2)
        own += subject.evaluate(seconds, 2)
    return {
        "cpu_ms": 1e3 * median(own),
        "cpu_ms_quartiles": [1e3 * float(q) for q in np.quantile(own, [0.25, 0.75])],
        "limit_ms": 1e3 * median(limit),
        "ratio": median(own) / median(limit),
        "n_evaluations": len(own),
        "n_limit": len(limit),
    }
