"""What comes of 10,000 structures and 1,000 files that no one should hand in: answers, named errors, crashes?

python benchmarks/bad_input.py [structures files]

The cases are those of `tests/bad_input`. They run in processes of their own, with 8 GiB of memory and 120 s a case, so
that a crash of the process and a hang are counted and told like every other failure.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path
from types import ModuleType

from side_by_side import store

CASES = Path(__file__).parents[1] / "tests" / "bad_input"
CHUNK, SECONDS, MEMORY = 500, 120, 8 * 2**30


def cases_of(kind: str) -> ModuleType:
    specification = importlib.util.spec_from_file_location(f"bad_{kind}", CASES / f"{kind}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def examine(kind: str, count: int, chunk: int) -> None:
    """In a process of its own: run the cases of one chunk, a line of JSON before and after each."""
    import torch
    from hypothesis import HealthCheck, Phase, given, seed, settings

    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("error")
    bad = cases_of(kind)
    scratch = Path(tempfile.mkdtemp())
    os.environ["MCGM_CACHE"] = str(scratch / "cache")
    examined = prepared(kind, bad, scratch)

    def too_long(*_: object) -> None:
        raise TimeoutError(f"{SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)

    @seed(chunk)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(case=bad.cases())
    def run(case: dict[str, object]) -> None:
        tell({"begins": str({key: value for key, value in case.items() if key != "fields"})})
        signal.alarm(SECONDS)
        try:
            tell({"outcome": examined(case)})
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-2 if isinstance(error, TimeoutError) else -1]
            text = f"{type(error).__name__}: {error}"[:300]
            tell({"outcome": "crashed", "error": text, "at": f"{Path(where.filename).name}:{where.lineno}"})
        finally:
            signal.alarm(0)

    run()
    shutil.rmtree(scratch, ignore_errors=True)


def prepared(kind: str, bad: ModuleType, scratch: Path):
    """The function that examines one case."""
    if kind == "structures":
        known = bad.potentials()
        return lambda case: bad.outcome(case, known)
    sound, model = scratch / "sound", scratch / "model.safetensors"
    sound.mkdir()
    bad.write_all(sound)
    from mcgm import build

    build(cutoff=4.0).save(model)

    def examined(case: dict[str, object]) -> str:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        try:
            return bad.outcome(case, sound, folder, model)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return examined


def tell(record: dict[str, object]) -> None:
    os.write(RECORDS, (json.dumps(record) + "\n").encode())


def count_outcomes(kind: str, wanted: int) -> dict[str, object]:
    """Chunks one after another until so many cases have run."""
    outcomes: Counter[str] = Counter()
    failures: list[dict[str, object]] = []
    chunk = 0
    while outcomes.total() < wanted:
        chunk += 1
        with tempfile.TemporaryFile() as records:
            command = [sys.executable, __file__, "--chunk", kind, str(CHUNK), str(chunk), str(records.fileno())]
            process = subprocess.Popen(command, pass_fds=[records.fileno()], stdout=subprocess.DEVNULL)
            try:
                process.wait(timeout=SECONDS * CHUNK / 20)
            except subprocess.TimeoutExpired:  # a hang that no signal reaches
                process.kill()
                process.wait()
            records.seek(0)
            lines = [json.loads(line) for line in records]
        begun = ""
        for line in lines:
            begun = line.get("begins", begun)
            if "outcome" in line:
                outcomes[line["outcome"]] += 1
                if line["outcome"] == "crashed":
                    failures.append(line | {"case": begun})
        if process.returncode and (not lines or "begins" in lines[-1]):
            outcomes["crashed"] += 1
            failures.append({"error": f"process ended with {process.returncode}", "case": begun, "chunk": chunk})
        print(f"{kind}: {outcomes.total()} of {wanted}, {outcomes['crashed']} crashed", file=sys.stderr, flush=True)
    return {
        "cases": outcomes.total(),
        "crashed": outcomes["crashed"],
        "outcomes": dict(sorted(outcomes.items())),
        "failures": failures,
    }


def main() -> None:
    structures, files = (int(text) for text in (sys.argv[1:] or ("10000", "1000")))
    store(
        "bad_input",
        {
            "question": "generated structures and damaged files: answered, refused by a named error, or crashed?",
            "structures": count_outcomes("structures", structures),
            "files": count_outcomes("files", files),
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--chunk"]:
        RECORDS = int(sys.argv[5])
        examine(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
