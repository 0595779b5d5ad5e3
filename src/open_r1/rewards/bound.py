"""A recipe's reward as TRL calls it: its parameters bound, its time measured, and begun early where that saves some."""

import asyncio
import functools
import inspect
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from open_r1.rewards.completion import Completion


@dataclass
class _Work:
    """One batch's values, and what the function wanted logged."""

    values: list[float | None] = field(default_factory=list)
    seconds: float = 0.0
    extras: list[tuple[str, list]] = field(default_factory=list)
    metrics: list[tuple[str, float]] = field(default_factory=list)


class BoundReward:
    """A reward in TRL's signature, named as TRL's metrics will show it.

    With TRL's `log_metric` it also logs the seconds that a batch took, the seconds that its caller had to wait for it,
    and the share of None. `start` begins a batch in the background; the call for the same completions then waits for
    what is left of it. Only a reward that leaves the work to other processes `starts_early`: another would compete
    with the trainer for the interpreter. With `shuffle_seed` the values are handed out in random order, the same for
    all rewards of a step, and nothing of the function's own is logged.
    """

    def __init__(
        self,
        name: str,
        function: Callable[..., list[float | None]],
        parameters: dict[str, Any],
        starts_early: bool = False,
        shuffle_seed: int | None = None,
    ):
        if hasattr(function, "__name__"):
            functools.update_wrapper(self, function)
        self.__name__ = name
        self.starts_early = starts_early
        self._function, self._parameters, self._shuffle_seed = function, parameters, shuffle_seed
        # What is the recipe's to say is not taken from the data: a column may happen to have a parameter's name.
        self._not_columns = {
            parameter.name
            for parameter in inspect.signature(function).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        self._background: ThreadPoolExecutor | None = None
        self._started: tuple[Sequence[Completion], Future[_Work]] | None = None

    def start(self, completions: Sequence[Completion], **columns) -> None:
        """Begins to judge these completions, unless this reward is one that begins when it is called."""
        if self.starts_early:
            if self._background is None:
                self._background = ThreadPoolExecutor(1, thread_name_prefix=f"reward {self.__name__}")
            self._started = (completions, self._background.submit(self._work, completions, columns))

    def __call__(self, completions: Sequence[Completion], log_metric=None, log_extra=None, **columns):
        """One value for each completion, in order; None without a verdict."""
        called = time.monotonic()
        started, self._started = self._started, None
        if started is not None and started[0] is completions:
            work = started[1].result()
        else:
            work = self._work(completions, columns)
        if log_extra is not None and self._shuffle_seed is None:
            for column, values in work.extras:
                log_extra(column, values)
        if log_metric is not None:
            if self._shuffle_seed is None:
                for metric, value in work.metrics:
                    log_metric(metric, value)
            log_metric(f"rewards/{self.__name__}/seconds", work.seconds)
            log_metric(f"rewards/{self.__name__}/seconds_waited", time.monotonic() - called)
            log_metric(f"rewards/{self.__name__}/none_share", work.values.count(None) / max(1, len(work.values)))
        if self._shuffle_seed is None:
            return work.values
        values = list(work.values)
        step = columns["trainer_state"].global_step if "trainer_state" in columns else 0
        random.Random(f"{self._shuffle_seed}/{step}/{len(values)}").shuffle(values)
        return values

    def _work(self, completions: Sequence[Completion], columns: dict[str, Any]) -> _Work:
        work, began = _Work(), time.monotonic()
        logs = {
            "log_extra": lambda column, values: work.extras.append((column, values)),
            "log_metric": lambda metric, value: work.metrics.append((metric, value)),
        }
        columns = {name: column for name, column in columns.items() if name not in self._not_columns}
        values = self._function(completions=completions, **self._parameters, **logs, **columns)
        work.values = asyncio.run(values) if inspect.iscoroutine(values) else values
        work.seconds = time.monotonic() - began
        return work
