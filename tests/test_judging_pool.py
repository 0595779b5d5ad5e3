"""The pool of judges: what becomes of hostile answers, killed processes and lost machines."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from open_r1 import judging
from open_r1.judging import JudgePool, close_pools, shared_pool
from open_r1.judging import pool as pool_module

JUDGE = "judges_of_tests"
CPU_SECONDS = 0.3
OVER_BUDGET = "over the CPU budget of 0.3 s"
# A test that would hang stands still, and fails after three times 20 s.
SMALL = {"cpu_seconds": CPU_SECONDS, "judge": JUDGE, "memory_bytes": 64 << 20, "stall_seconds": 20}
NEIGHBOURS = [("1", "1"), ("1", "2"), ("2", "2")]
NEIGHBOURS_SCORES = [1.0, 0.0, 1.0]
SECONDS_TO_VANISH = 30


def new_pool(num_workers=2, **more) -> JudgePool:
    return JudgePool(num_workers, **{**SMALL, **more})


@pytest.fixture
def pool():
    with new_pool() as pool:
        yield pool


def scores(verdicts) -> list[float | None]:
    return [verdict.score for verdict in verdicts]


def is_gone(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE  # a container's init may never reap it
    return True


def wait_until(condition):
    deadline = time.monotonic() + SECONDS_TO_VANISH
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"


def test_one_verdict_for_each_pair_in_order(pool):
    pairs = [(str(index % 7), str(index % 5)) for index in range(100)]
    assert scores(pool.judge(pairs)) == [float(gold == answer) for gold, answer in pairs]
    assert pool.judge([]) == []


ORDERS = [  # answer, score, reason
    ("power", 0.0, OVER_BUDGET),  # the interpreter never gets the word again
    ("loop", 0.0, OVER_BUDGET),
    ("recursion", 0.0, "nested too deeply"),
    ("depth 5000", 1.0, "deep, and yet judged"),
    ("memory", 0.0, "out of memory on this answer"),
    ("segfault", 0.0, "crashed the judge (SIGSEGV), twice"),
    ("abort", 0.0, "crashed the judge (SIGABRT), twice"),
    ("kill_me", None, "judge was killed (SIGKILL)"),
    ("kill_my_supervisor", None, "judge was killed (SIGKILL)"),
    ("leave", None, "judge broke: SystemExit: 0"),
    ("raise_error", None, "judge broke: ValueError: no such thing"),
    ("wait 0.6", 1.0, "waited"),  # the budget is not of wall clock
    ("print_much", 1.0, "printed"),
    ("say_much", 1.0, "\N{WINKING FACE}" * 300),
    ("lone surrogate \ud800", 0.0, "different"),
]


@pytest.mark.parametrize(("answer", "score", "reason"), ORDERS, ids=lambda value: str(value).encode("unicode_escape"))
def test_an_answer_gets_its_verdict_and_the_others_theirs(pool, answer, score, reason):
    verdict, *others = pool.judge([("1", answer), *NEIGHBOURS])
    assert (verdict.score, verdict.reason) == (score, reason)
    assert scores(others) == NEIGHBOURS_SCORES


GOLDS = [  # gold, reason: no answer is wrong because nobody can read the gold
    ("loop", "the gold is over the CPU budget of 0.3 s"),
    ("recursion", "the gold is nested too deeply"),
    ("memory", "out of memory on the gold"),
    ("segfault", "the gold crashed the judge (SIGSEGV), twice"),
    ("kill_me", "judge was killed (SIGKILL)"),
]


@pytest.mark.parametrize(("gold", "reason"), GOLDS)
def test_a_gold_that_ends_the_judge_gives_no_verdict(pool, gold, reason):
    first, second, *others = pool.judge([(gold, "1"), (gold, "2"), *NEIGHBOURS])
    assert [(first.score, first.reason), (second.score, second.reason)] == [(None, reason)] * 2
    assert scores(others) == NEIGHBOURS_SCORES


def test_several_bombs_for_one_gold(pool):
    answers = ["loop a", "1", "recursion", "loop b", "2", "loop c", "segfault", "1 ", "kill_me"]
    assert scores(pool.judge([("1", answer) for answer in answers])) == [0, 1, 0, 0, 0, 0, 0, 0, None]


def test_gold_and_answer_have_a_budget_each(pool):
    assert scores(pool.judge([("burn 0.2", "burn 0.2")])) == [1.0]


def test_what_an_answer_leaves_behind_takes_no_memory_from_the_next():
    with new_pool(num_workers=1) as pool:
        assert scores(pool.judge([("1", "hoard 40"), ("1", "hoard 41"), ("1", "hoard 42")])) == [1.0] * 3


def test_a_judge_has_seen_no_other_batch(pool):
    golds = [str(number) for number in range(6)]
    assert [pool.judge([(gold, "golds_seen")])[0].reason for gold in golds] == golds


def test_the_judge_is_warmed_up_once_by_the_supervisor(pool):
    assert scores(pool.judge([("1", "warmed_up_by_supervisor"), ("2", "warmed_up_by_supervisor")])) == [1.0, 1.0]


def test_every_worker_hashes_alike():
    hashes = set()
    for _ in range(2):
        with new_pool() as pool:
            hashes.add(pool.judge([("1", "hash_of x")])[0].reason)
    assert len(hashes) == 1


def meet(pool, fifo) -> list[float | None]:
    """Two answers of one gold that wait for each other: both workers of the pool have started when they have met."""
    os.mkfifo(fifo)
    return scores(pool.judge([("1", f"meet {how} {fifo}") for how in ("r", "w")]))


def test_the_workers_judge_at_the_same_time(tmp_path):
    with new_pool() as pool:
        assert meet(pool, tmp_path / "fifo") == [1.0, 1.0]
        assert pool.take_counts().losses == 0


def test_the_same_from_many_threads_at_once(pool):
    verdicts = {}

    def judge(number):
        pairs = [("1", f"loop {number}"), (f"{number}", f"{number}"), ("1", "x"), ("shared", "shared")]
        verdicts[number] = scores(pool.judge(pairs))

    threads = [threading.Thread(target=judge, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verdicts == {number: [0.0, 1.0, 0.0, 1.0] for number in range(4)}


def test_each_distinct_pair_is_judged_once(pool, tmp_path):
    notes = tmp_path / "notes"
    order = f"note {notes}"
    for _ in range(3):
        assert scores(pool.judge([("1", order), ("2", order), ("1", order)])) == [1.0] * 3
    assert notes.read_text().splitlines() == ["judged"] * 2


def test_an_answer_over_budget_is_not_judged_again(pool):
    pool.judge([("1", "loop")])
    assert scores(pool.judge([("1", "loop")])) == [0.0]
    assert pool.take_counts().budget_kills == 1


def test_no_verdict_is_not_remembered(pool):
    for _ in range(2):
        pool.judge([("1", "raise_error"), ("1", "1")])
    assert pool.take_counts().judged == 3


def test_the_cache_forgets_what_was_longest_unused(pool, monkeypatch):
    monkeypatch.setattr(pool_module, "NUM_CACHED_PAIRS", 2)
    for answer in ("a", "b", "a", "c"):
        pool.judge([("1", answer)])
    pool.take_counts()
    assert [(pool.judge([("1", answer)]), pool.take_counts().judged)[1] for answer in ("a", "b")] == [0, 1]


def test_counts(pool):
    pool.judge([("1", "1"), ("1", "1"), ("1", "loop"), ("1", "abort"), ("1", "kill_me"), ("1", "kill_me")])
    counts = pool.take_counts()
    assert CPU_SECONDS / 2 < counts.cpu_seconds < 10  # the timer that kills counts in ticks, the bill does not
    counts.cpu_seconds = 0.0
    assert counts == judging.JudgeCounts(
        pairs=6, distinct=4, judged=4, undecided=2, budget_kills=1, crashes=2, losses=3, worker_restarts=0
    )
    assert pool.take_counts() == judging.JudgeCounts()


@pytest.mark.parametrize("order", ["crash_once", "kill_once"])
def test_an_accident_is_tried_again(pool, tmp_path, order):
    verdict = pool.judge([("1", f"{order} {tmp_path / 'marker'}")])[0]
    assert (verdict.score, verdict.reason) == (1.0, "judged at the second try")


def supervisor_of(pool) -> int:
    pool._cache.clear()
    return int(pool.judge([("1", "who")])[0].reason.split()[1])


def test_workers_killed_between_batches_are_replaced():
    with new_pool(num_workers=1) as pool:
        for _ in range(3):
            killed = supervisor_of(pool)
            os.kill(killed, signal.SIGKILL)
            wait_until(lambda: is_gone(killed))  # noqa: B023 - it is called at once
            assert supervisor_of(pool) != killed
        assert scores(pool.judge(NEIGHBOURS)) == NEIGHBOURS_SCORES
        counts = pool.take_counts()
        assert (counts.worker_restarts, counts.losses) == (3, 0)  # no pair was in their hands


def test_signals_to_the_whole_job_leave_the_workers_at_work():
    with new_pool(num_workers=1) as pool:
        supervisor = supervisor_of(pool)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(supervisor, number)
            assert supervisor_of(pool) == supervisor


def test_a_judge_that_stands_still_is_no_wrong_answer(monkeypatch):
    monkeypatch.setattr(pool_module, "MAX_LOSSES", 1)
    with new_pool(stall_seconds=2) as pool:
        verdict, *others = pool.judge([("1", "stand_still"), *NEIGHBOURS])
        assert (verdict.score, verdict.reason) == (None, "judge stood still for 2 s")
        assert scores(others) == NEIGHBOURS_SCORES


def test_the_budget_holds_where_the_trainer_blocks_its_signal():
    old = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGPROF])
    try:
        with new_pool() as pool:
            assert scores(pool.judge([("1", "loop")])) == [0.0]
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)


MODULES = [  # source of the judge's module, what is said
    (None, "ModuleNotFoundError: No module named 'judge_that_fails'"),
    ("def judge(", "SyntaxError: '(' was never closed (judge_that_fails.py, line 1)"),
    ("x = 1", "TypeError: judge_that_fails has no function `judge`"),
    ("import sys; sys.exit(3)", "SystemExit: 3"),
    ("import os; os.write(2, b'no such library'); os._exit(4)", "no such library"),
    ("import os; os.abort()", "judge was killed (SIGABRT)"),
    ("def judge(gold, answer): pass\ndef warm_up(): raise ValueError('cold')", "ValueError: cold"),
]


@pytest.mark.parametrize(("source", "reason"), MODULES)
def test_a_judge_that_cannot_start_gives_no_verdict(tmp_path, monkeypatch, source, reason):
    if source is not None:
        (tmp_path / "judge_that_fails.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with new_pool(judge="judge_that_fails") as pool:
        for _ in range(2):
            verdicts = pool.judge(NEIGHBOURS)
            assert [(v.score, v.reason) for v in verdicts] == [(None, f"judge cannot start: {reason}")] * 3


def test_no_python_gives_no_verdict(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    assert {verdict.reason for verdict in pool.judge(NEIGHBOURS)} == {
        "judge cannot start: [Errno 2] No such file or directory: '/no/such/python'"
    }


def test_replies_may_come_in_pieces(pool, monkeypatch):
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, num_bytes: read(fd, min(num_bytes, 7)))
    assert scores(pool.judge(NEIGHBOURS)) == NEIGHBOURS_SCORES


def test_what_the_judge_prints_goes_nowhere(pool):
    assert scores(pool.judge([("1", "standard_streams_are_null")])) == [1.0]


def test_a_megabyte_answer(pool):
    megabyte = "x" * (1 << 20)
    assert scores(pool.judge([("1", f"length {megabyte}"), (megabyte, megabyte), ("1", "1")])) == [1 << 20, 1.0, 1.0]


@pytest.mark.parametrize("num_batches", [600, pytest.param(10_000, marks=pytest.mark.slow)])
def test_many_batches_leave_nothing_open(tmp_path, num_batches):
    gc.collect()
    me = psutil.Process()
    fatal = ["recursion", "abort", "kill_me", "kill_my_supervisor"]
    with new_pool() as pool:
        meet(pool, tmp_path / "before")
        before = me.num_fds(), len(me.children(recursive=True))
        for number in range(num_batches):
            order = fatal[number // 50 % 4] if number % 50 == 0 else ""
            assert pool.judge([("1", f"{order} {number}"), (f"{number}", f"{number}")])[1].score == 1.0
        meet(pool, tmp_path / "after")
        assert (me.num_fds(), len(me.children(recursive=True))) == before


def test_close_leaves_no_process_and_no_descriptor(tmp_path):
    close_pools()  # those that other tests share
    gc.collect()
    me = psutil.Process()
    before = me.num_fds(), me.children(recursive=True)
    pool = new_pool()
    meet(pool, tmp_path / "fifo")
    processes = [worker._process for worker in pool._workers]
    pool.close()
    assert [process.returncode for process in processes] == [0, 0]  # of themselves
    assert (me.num_fds(), me.children(recursive=True)) == before
    assert scores(pool.judge([("3", "3")])) == [1.0]  # it is open again
    close_pools()
    assert (me.num_fds(), me.children(recursive=True)) == before


def test_an_interrupted_batch_leaves_no_worker_and_no_stale_verdict(pool, tmp_path):
    def interrupt(*_):
        raise KeyboardInterrupt

    children = psutil.Process().children()
    meet(pool, tmp_path / "fifo")
    processes = [worker._process for worker in pool._workers]
    old = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        with pytest.raises(KeyboardInterrupt):
            pool.judge([("1", "stand_still"), ("2", "stand_still"), *NEIGHBOURS])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert [process.returncode for process in processes] == [0, 0]  # of themselves, though their children stood still
    assert psutil.Process().children() == children
    assert scores(pool.judge([("9", "9"), *NEIGHBOURS])) == [1.0, *NEIGHBOURS_SCORES]


TRAINER = f"""
import sys
from open_r1.judging import JudgePool
pool = JudgePool(1, cpu_seconds=60, judge="{JUDGE}")
print(pool.judge([("1", "who")])[0].reason, flush=True)
if sys.argv[1]: pool.judge([("1", sys.argv[1])])
sys.stdin.read()
"""


@pytest.mark.parametrize("order", ["", "stand_still", "loop"])
def test_a_killed_trainer_leaves_no_worker(order):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", TRAINER, order]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as trainer:
        first_child, supervisor = map(int, trainer.stdout.readline().split())
        pids = [supervisor]
        if order:
            wait_until(lambda: {child.pid for child in psutil.Process(supervisor).children()} - {first_child})
            pids += [child.pid for child in psutil.Process(supervisor).children()]
        trainer.kill()
    wait_until(lambda: all(is_gone(pid) for pid in pids))


def score_in_fork(pool, pair) -> float | None:
    """What the pool gives in a forked child; None if the child did not get to it."""
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(20)
            score = pool.judge([pair])[0].score
            pool.close()
            os._exit(int(score) + 1)
        finally:
            os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return float(status - 1) if status > 0 else None


def test_a_forked_child_has_workers_of_its_own():
    with new_pool(num_workers=1) as pool:
        supervisor = supervisor_of(pool)
        assert [score_in_fork(pool, pair) for pair in NEIGHBOURS] == NEIGHBOURS_SCORES
        assert supervisor_of(pool) == supervisor
        assert scores(pool.judge(NEIGHBOURS)) == NEIGHBOURS_SCORES


def test_a_fork_in_the_middle_of_another_threads_batch(pool):
    thread = threading.Thread(target=pool.judge, args=([("1", "loop"), ("2", "loop")],))
    thread.start()
    wait_until(pool._lock.locked)
    score = score_in_fork(pool, ("1", "1"))
    thread.join()
    assert score == 1.0


def test_a_forked_child_keeps_no_worker_of_its_parent_alive():
    me = psutil.Process()
    with new_pool(num_workers=1) as pool:
        supervisor = supervisor_of(pool)
        read_fd, write_fd = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(write_fd)
            os.read(read_fd, 1)
            os._exit(0)
        worker = next(process for process in me.children() if process.pid == supervisor)
        for file in (pool._workers[0]._process.stdin, pool._workers[0]._process.stdout):
            file.close()  # as the kernel does when the trainer dies
        try:
            wait_until(lambda: is_gone(worker.pid))
        finally:
            os.close(read_fd)
            os.close(write_fd)
            os.waitpid(child, 0)
            pool._workers.clear()


def test_a_trainer_that_ends_normally_says_nothing():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    ended = subprocess.run(
        [sys.executable, "-X", "dev", "-c", TRAINER, "print_much"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment,
        check=True,
    )
    assert ended.stderr == b""


def test_importing_the_room_is_light():
    heavy = "{'sympy', 'math_verify', 'torch', 'pydantic', 'numpy'}"
    code = f"import sys, open_r1.judging; print(*{heavy} & set(sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment).stdout.split() == []


@pytest.mark.parametrize(("num_cores", "num_trainers", "num_workers"), [(2, 1, 2), (64, 4, 8), (16, 4, 4), (2, 8, 1)])
def test_trainers_share_the_cores(monkeypatch, num_cores, num_trainers, num_workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(num_cores)), raising=False)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(num_trainers))
    monkeypatch.setattr(pool_module, "_shared", {})
    assert shared_pool().num_workers == num_workers


def test_one_shared_pool_for_each_budget():
    assert shared_pool(1.5) is shared_pool(1.5) is not shared_pool(2.5)


@pytest.mark.parametrize("arguments", [{"num_workers": 0}, {"cpu_seconds": 0}])
def test_a_pool_without_workers_or_time_is_refused(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        new_pool(**arguments)
