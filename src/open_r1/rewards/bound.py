"""A recipe's reward as TRL calls it: its parameters bound, its time measured, and begun early where that saves some."""

import asyncio
import functools
import inspect
import math
import queue
import random
import re
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from open_r1.rewards.completion import Completion

# Metrics of our rewards that say how much there was, and add up; all others are shares and rates, and have a mean.
AMOUNTS = ("seconds_waited", "pairs", "budget_kills", "judge_crashes")


@dataclass
class _Rows:
    """Some rows of a batch: their positions in it, and what the function is called with."""

    positions: list[int]
    completions: list[Completion]
    columns: dict[str, Any]

    def are_in(self, completions: Sequence[Completion], columns: dict[str, Any]) -> bool:
        """True if a batch has these very rows at these positions."""
        return max(self.positions, default=-1) < len(completions) and self == _rows(
            self.positions, completions, {name: columns.get(name) for name in self.columns}
        )


@dataclass
class _Work:
    """The values of some rows, and what the function wanted logged."""

    rows: _Rows
    values: list[float | None] = field(default_factory=list)
    num_asked: int = 0
    """Rows that the function was given: what its metrics are of."""
    seconds: float = 0.0
    extras: list[tuple[str, list]] = field(default_factory=list)
    metrics: list[tuple[str, float]] = field(default_factory=list)


class _Background:
    """A thread that does one thing after the other, and that a process which ends does not wait for.

    Those of ThreadPoolExecutor are waited for: who waits for a server would keep the process, and its GPU, for hours.
    """

    def __init__(self, name: str):
        self._tasks: queue.SimpleQueue[tuple[Future, Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=_do_all, args=(self._tasks,), name=name, daemon=True).start()
        weakref.finalize(self, self._tasks.put, None)

    def submit(self, task: Callable[[], Any]) -> Future:
        """Does it when all before is done; the future has what it gives or raises."""
        future: Future = Future()
        self._tasks.put((future, task))
        return future


def _do_all(tasks: queue.SimpleQueue) -> None:
    while (entry := tasks.get()) is not None:
        future, task = entry
        try:
            future.set_result(task())
        except BaseException as error:  # noqa: BLE001 - its caller's, who gets it with the future
            future.set_exception(error)
        del entry, future, task  # while it waits for the next one it keeps nothing alive


class BoundReward:
    """A reward in TRL's signature, named as TRL's metrics will show it.

    With TRL's `log_metric` it also logs the seconds that a batch took, the seconds that its caller had to wait for it,
    and the share of None. `start` begins rows of a batch in the background, as often as rows are there; the call for
    the batch then waits for what is left of it. Only a reward that leaves the work to other processes, and judges each
    row by itself, `starts_early`: another would compete with the trainer for the interpreter. With `shuffle_seed` the
    values are handed out in random order, the same for all rewards of a step, and nothing of the function's own is
    logged. What a function logs under its own name, `logs_as`, is logged under this reward's: two rewards may have one
    function. With `tasks` only rows are judged whose column `task` has one of these values; before `first_step` and
    after `last_step`, counted from 1, none is. While the trainer evaluates it sets `in_evaluation`: completions are
    then for the step that is done, and before the first for that one, not for the step to come.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., list[float | None]],
        parameters: dict[str, Any],
        starts_early: bool = False,
        shuffle_seed: int | None = None,
        tasks: Sequence[str] | None = None,
        first_step: int = 1,
        last_step: int | None = None,
        logs_as: str | None = None,
    ):
        if hasattr(function, "__name__"):
            functools.update_wrapper(self, function)
        self.__name__ = name
        self.starts_early = starts_early
        self.in_evaluation = False
        self._tasks, self._first_step, self._last_step = tasks, first_step, last_step
        self._own_name = re.compile(rf"^(rewards/)?{re.escape(logs_as or name)}(?=[_/])")
        self._function, self._parameters, self._shuffle_seed = function, parameters, shuffle_seed
        # What is the recipe's to say is not taken from the data: a column may happen to have a parameter's name.
        self._not_columns = {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        self._background: _Background | None = None
        self._waiting: deque[_Rows] = deque()
        self._begun: list[Future[_Work | None]] = []

    def start(self, completions: Sequence[Completion], positions: Iterable[int] | None = None, **columns) -> None:
        """Begins to judge these completions, unless this reward is one that begins when it is called.

        `positions` are theirs in the batch that they are part of (all of it if None). What waits when the background
        becomes free is judged together.
        """
        if not self.starts_early:
            return
        if self._background is None:
            self._background = _Background(f"reward {self.__name__}")
        positions = list(range(len(completions)) if positions is None else positions)
        self._waiting.append(_Rows(positions, list(completions), columns))
        self._begun.append(self._background.submit(self._work_on_waiting))

    def __call__(self, completions: Sequence[Completion], log_metric=None, log_extra=None, **columns):
        """One value for each completion, in order; None without a verdict."""
        called = time.monotonic()
        work = self._together(completions, columns)
        if log_extra is not None and self._shuffle_seed is None:
            for column, values in work.extras:
                log_extra(self._named(column), values)
        if log_metric is not None:
            if self._shuffle_seed is None:
                for metric, value in work.metrics:
                    log_metric(self._named(metric), value)
            log_metric(f"rewards/{self.__name__}/seconds", work.seconds)
            log_metric(f"rewards/{self.__name__}/seconds_waited", time.monotonic() - called)
            asked = [
                value for value, row in zip(work.values, self._asked(columns, len(work.values)), strict=True) if row
            ]
            log_metric(f"rewards/{self.__name__}/none_share", asked.count(None) / max(1, len(asked)))
        if self._shuffle_seed is None:
            return work.values
        values = list(work.values)
        step = columns["trainer_state"].global_step if "trainer_state" in columns else 0
        random.Random(f"{self._shuffle_seed}/{step}/{len(values)}").shuffle(values)
        return values

    def _named(self, logged: str) -> str:
        """The name of a metric or a column that begins with the function's name, with this reward's in its place."""
        return self._own_name.sub(lambda found: f"{found[1] or ''}{self.__name__}", logged)

    def _together(self, completions: Sequence[Completion], columns: dict[str, Any]) -> _Work:
        """The work on a whole batch: what was begun of it, and now the rest."""
        begun, self._begun = self._begun, []
        parts = [work for future in begun if (work := future.result()) and work.rows.are_in(completions, columns)]
        done = {position for part in parts for position in part.rows.positions}
        rest = [position for position in range(len(completions)) if position not in done]
        if rest or not parts:
            parts.append(self._work(_rows(rest, completions, columns)))
        return parts[0] if len(parts) == 1 and not done else _one_batch(parts, len(completions))

    def _work_on_waiting(self) -> _Work | None:
        """The work on all that waits, None if an earlier call has taken it along."""
        waiting = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not waiting:
            return None
        columns = {
            name: [value for rows in waiting for value in rows.columns[name]] if isinstance(column, list) else column
            for name, column in waiting[-1].columns.items()
        }
        positions = [position for rows in waiting for position in rows.positions]
        return self._work(_Rows(positions, [one for rows in waiting for one in rows.completions], columns))

    def _asked(self, columns: dict[str, Any], num_rows: int) -> list[bool]:
        """For each row whether this reward is for it."""
        if not self._counts_in(columns.get("trainer_state")):
            return [False] * num_rows
        return [self.is_for(task) for task in columns["task"]] if self._tasks is not None else [True] * num_rows

    def is_for(self, task: str | None) -> bool:
        """True if rows of this task are judged."""
        return self._tasks is None or task in self._tasks

    def _counts_in(self, state: Any) -> bool:
        """True in the steps in which this reward counts; where nothing is trained it always does."""
        if state is None:
            return True
        # the one that these completions are for
        step = max(1, state.global_step) if self.in_evaluation else state.global_step + 1
        return self._first_step <= step and (self._last_step is None or step <= self._last_step)

    def _work(self, rows: _Rows) -> _Work:
        """The work on these rows; those of another task get None, and the function is not told of them."""
        positions = [index for index, asked in enumerate(self._asked(rows.columns, len(rows.completions))) if asked]
        if len(positions) == len(rows.completions):
            return self._work_on(rows)
        work = self._work_on(_rows(positions, rows.completions, rows.columns)) if positions else _Work(rows)
        num_rows = len(rows.completions)
        extras = [(column, _in_order([(positions, values)], num_rows)) for column, values in work.extras]
        values = _in_order([(positions, work.values)], num_rows)
        return _Work(rows, values, work.num_asked, work.seconds, extras, work.metrics)

    def _work_on(self, rows: _Rows) -> _Work:
        work, began = _Work(rows, num_asked=len(rows.completions)), time.monotonic()
        columns = {name: column for name, column in rows.columns.items() if name not in self._not_columns}
        values = self._function(
            completions=rows.completions,
            **self._parameters,
            log_extra=lambda column, values: work.extras.append((column, values)),
            log_metric=lambda metric, value: work.metrics.append((metric, value)),
            **columns,
        )
        work.values = asyncio.run(values) if inspect.iscoroutine(values) else values
        work.seconds = time.monotonic() - began
        return work


def _rows(positions: list[int], completions: Sequence[Completion], columns: dict[str, Any]) -> _Rows:
    """The rows at these positions of a batch; of its columns what is a list has a value for each row."""
    taken = {
        name: [column[position] for position in positions] if isinstance(column, list) else column
        for name, column in columns.items()
    }
    return _Rows(positions, [completions[position] for position in positions], taken)


def _one_batch(parts: Sequence[_Work], num_rows: int) -> _Work:
    """The work on all rows of a batch, in the batch's order."""
    whole = _Work(_Rows(list(range(num_rows)), [], {}), seconds=sum(part.seconds for part in parts))
    whole.values = _in_order([(part.rows.positions, part.values) for part in parts], num_rows)
    for column in dict.fromkeys(column for part in parts for column, _ in part.extras):
        pieces = [(part.rows.positions, values) for part in parts for name, values in part.extras if name == column]
        whole.extras.append((column, _in_order(pieces, num_rows)))
    for metric in dict.fromkeys(metric for part in parts for metric, _ in part.metrics):
        given = [(value, part.num_asked) for part in parts for name, value in part.metrics if name == metric]
        whole.metrics.append((metric, _total(given) if metric.rpartition("/")[2] in AMOUNTS else _mean(given)))
    return whole


def _in_order(pieces: Sequence[tuple[list[int], list]], num_rows: int) -> list:
    whole = [None] * num_rows
    for positions, values in pieces:
        for position, value in zip(positions, values, strict=True):
            whole[position] = value
    return whole


def _total(given: Sequence[tuple[float, int]]) -> float:
    return sum(value for value, _ in given)


def _mean(given: Sequence[tuple[float, int]]) -> float:
    """Weighted; rounded, because the last bit would tell in which parts the rows happened to be judged."""
    return round(math.fsum(value * weight for value, weight in given) / max(1, sum(weight for _, weight in given)), 12)
