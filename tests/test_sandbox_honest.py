"""The local sandbox and programs that mean no harm: each prints what it would print on the user's own machine."""

import subprocess
import sys

import pytest
from honest_programs import HONEST, PYTHON, Honest

from open_r1.sandbox import Execution, Limits, Program, SandboxUnavailable
from open_r1.sandbox.local import LocalSandbox

LIMITS = Limits(wall_seconds=20, cpu_seconds=2)
NUM_AT_ONCE = 2


def as_bytes(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else text.encode()


@pytest.fixture(scope="module", params=["A", "B"])
def tier(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def sandbox(tier):
    try:
        sandbox = LocalSandbox(LIMITS, concurrency=1, tier=tier)
    except SandboxUnavailable as error:
        pytest.skip(f"tier {tier}: {error}")
    with sandbox:
        yield sandbox


def program_of(row: Honest) -> Program:
    return Program(row.text, stdin=row.stdin, language=row.language, files=row.files)


def differences(row: Honest, execution: Execution) -> list[str]:
    """How an execution is not what the row says."""
    found = []
    stderr = execution.stderr.decode("utf-8", "replace")
    if execution.status != row.status:
        found.append(f"status {execution.status}")
    if row.exit_code is not None and execution.exit_code != row.exit_code:
        found.append(f"exit code {execution.exit_code}")
    if execution.stdout != as_bytes(row.stdout):
        found.append(f"stdout {execution.stdout[:300]!r}")
    position = 0
    for words in row.stderr:
        position = stderr.find(words, position)
        if position < 0:
            found.append(f"no {words!r} in stderr")
            break
    if row.status == "ok" and not row.stderr and execution.stderr:
        found.append("words on stderr")
    if "inside/program.py" in stderr:
        found.append("the sandbox's own lines in a traceback")
    return [*found, stderr[-1000:]] if found else []


@pytest.mark.parametrize("row", HONEST, ids=lambda row: row.name)
def test_an_honest_program_runs(sandbox, tier, row):
    if tier not in row.tiers:
        pytest.skip(row.not_in_b)
    if problem := LocalSandbox.language_problem(row.language):
        pytest.skip(problem)
    assert differences(row, sandbox.run([program_of(row)])[0]) == []


def test_programs_side_by_side_do_not_mix(tier):
    rows = [row for row in PYTHON if tier in row.tiers and row.status != "timeout"]
    with LocalSandbox(LIMITS, concurrency=NUM_AT_ONCE, tier=tier) as sandbox:
        executions = sandbox.run([program_of(row) for row in rows])
    pairs = zip(rows, executions, strict=True)
    assert [(row.name, found) for row, one in pairs if (found := differences(row, one))] == []


@pytest.mark.parametrize(
    "exit_code", [1, 2, 24, 42, 77, 81, 82, 97, 120, 124, 125, 126, 127, 128, 137, 139, 159, 254, 255]
)
def test_no_exit_code_has_a_meaning_of_its_own(sandbox, exit_code):
    execution = sandbox.run([Program(f"import os; os._exit({exit_code})")])[0]
    assert (execution.status, execution.exit_code) == ("runtime_error", exit_code)


@pytest.mark.parametrize(
    "row",
    [
        row
        for row in PYTHON
        if row.status in ("ok", "runtime_error") and row.name not in ("null_in_source", "interrupted")
    ],
    ids=lambda row: row.name,
)
def test_the_row_says_what_python_does(row, tmp_path):
    """So that a row that fails says something about the sandbox: plain Python does the same."""
    (tmp_path / "main.py").write_bytes(row.text.encode())
    work = tmp_path / "work"
    work.mkdir()
    for name, content in row.files.items():
        (work / name).parent.mkdir(parents=True, exist_ok=True)
        (work / name).write_bytes(as_bytes(content))
    command = "import resource as r; r.setrlimit(r.RLIMIT_STACK, (64 << 20, r.RLIM_INFINITY)); import os, sys;"
    command += f"os.execv(sys.executable, [sys.executable, '-X', 'utf8', {str(tmp_path / 'main.py')!r}])"
    with open(tmp_path / "stdin", "w+b") as stdin:
        stdin.write(as_bytes(row.stdin))
        stdin.seek(0)
        environment = {"PYTHONPATH": str(work)}
        ended = subprocess.run(
            [sys.executable, "-c", command], cwd=work, stdin=stdin, capture_output=True, env=environment
        )
    status = "ok" if ended.returncode == 0 else "runtime_error"
    plain = Execution(status, ended.returncode, ended.stdout, ended.stderr, 0.0, 0.0)
    assert differences(row, plain) == []
