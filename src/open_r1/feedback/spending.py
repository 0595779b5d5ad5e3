"""What a judge has used, of tokens and of money, and the end of a run that would use too much."""

import asyncio
import json
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.generation import Tokens
from open_r1.recipe import Judge
from open_r1.shares import directories_of_run, directories_of_shares, share_of
from open_r1.step_process import RunStopped
from open_r1.whole_files import whole

TOKENS_PER_PRICE = 1_000_000
NOTHING = Tokens(0, 0)


@dataclass(frozen=True)
class Cap:
    """A key of the judge's section, the most that it allows, and what a token is of that."""

    key: str
    most: float
    per_prompt_token: float
    per_completion_token: float
    unit: str

    def of(self, tokens: Tokens) -> float:
        """How much of the cap the tokens are."""
        return tokens.prompt * self.per_prompt_token + tokens.completion * self.per_completion_token

    def in_words(self, amount: float) -> str:
        return f"{amount:,.10g} {self.unit}"


class Spending:
    """Counts what a judge uses; a `Meter` that never lets `judge.max_tokens` or `judge.max_usd` be passed.

    Before a request the most that it can take is set aside. What has been spent by all processes when this one begins
    is off the caps, and each of `num_processes` may spend an equal part of the rest. A share of a run has its part of
    the run's caps once and for all, however often it is taken up; what the rest of the run has spent is off before:
    for the run that joins shares, all of theirs. And no part is more than what is left of the caps when it begins,
    whoever has spent the rest. Requests of which nobody says what they took count as nothing, as
    those that a kill cuts off.

    `file` is the recipe, for errors. With a `folder`, what this process has spent is in a file there after each answer.
    """

    def __init__(
        self,
        section: Judge,
        file: str = "recipe.yaml",
        folder: Path | None = None,
        process_index: int = 0,
        num_processes: int = 1,
    ):
        self._section = section
        self._caps = [Cap("max_tokens", section.max_tokens, 1, 1, "tokens")] if section.max_tokens is not None else []
        self._caps += [_cap_in_usd(section)] if section.max_usd is not None else []
        self._file, self._num_processes = file, num_processes
        self._own_file = None if folder is None else folder / f"judging-{process_index}.json"
        self.spent, self.num_requests = NOTHING, 0  # by this process, in all attempts of the run
        self._spent_before, self._all_spent_before = NOTHING, NOTHING
        self._spent_elsewhere, self._spent_anywhere, self._num_shares = NOTHING, NOTHING, 1
        self._reserved, self._num_in_flight = NOTHING, 0
        self._stopped: RunStopped | None = None
        self._waiting: list[asyncio.Future[None]] = []
        self._lock = threading.Lock()

    @classmethod
    def load(
        cls, section: Judge, file: str, folder: Path, process_index: int = 0, num_processes: int = 1
    ) -> "Spending":
        """Spending that goes on from what the processes of earlier attempts have left in the folder."""
        spending = cls(section, file, folder, process_index, num_processes)
        for earlier, num_requests, tokens in _spent_by_processes(folder):
            spending._all_spent_before = _sum(spending._all_spent_before, tokens)
            if earlier == spending._own_file:
                spending.spent, spending.num_requests = tokens, num_requests
                spending._spent_before = tokens
        if share := share_of(folder):
            spending._num_shares = share.count
        _, spending._spent_elsewhere = _sum_in(_elsewhere(folder))
        _, spending._spent_anywhere = _sum_in(directories_of_run(folder))
        return spending

    def save(self) -> None:
        """Writes down what this process has spent, if it has a file."""
        if self._own_file is not None:
            with whole(self._own_file) as unfinished:
                unfinished.write_text(json.dumps(_counts(self.num_requests, self.spent)) + "\n", encoding="utf-8")

    def _save_or_stop(self) -> None:
        """Saves; if that fails nothing more is asked for. What has just been paid for is its caller's all the same."""
        try:
            self.save()
        except OSError as error:
            self._stopped = RunStopped(
                f"{self._own_file}: what the judge has spent cannot be written down ({error.strerror}); make room, and "
                f"start again"
            )

    def report(self) -> dict[str, Any]:
        """Requests, tokens and usd of this process in all attempts of the run; usd is None without a price."""
        return _in_all(self._section, self.num_requests, self.spent)

    async def reserve(self, bound: Tokens) -> None:
        """Sets the most that a request can take aside, when what is in flight has left room for it.

        Raises RunStopped if nothing is in flight and there is none.
        """
        while True:
            with self._lock:
                if self._took(bound):
                    return
                waiting = asyncio.get_running_loop().create_future()
                self._waiting.append(waiting)
            try:
                await waiting
            finally:
                with self._lock:
                    if waiting in self._waiting:
                        self._waiting.remove(waiting)

    def take(self, bound: Tokens) -> None:
        """The same at once. Raises RunStopped if there is no room."""
        with self._lock:
            if not self._took(bound):
                raise self._stop(bound)

    def settle(self, bound: Tokens, prompt_tokens: int | None, completion_tokens: int, num_requests: int = 1) -> None:
        """Puts what was taken in the place of what was set aside; a prompt of unknown length counts as its bound."""
        taken = Tokens(bound.prompt if prompt_tokens is None else prompt_tokens, completion_tokens)
        with self._lock:
            self._reserved = Tokens(*(all_ - one for all_, one in zip(self._reserved, bound, strict=True)))
            self._num_in_flight -= 1
            self.spent = _sum(self.spent, taken)
            self.num_requests += num_requests
            if num_requests:
                self._save_or_stop()
            for waiting in self._waiting:
                waiting.get_loop().call_soon_threadsafe(_wake, waiting)
            self._waiting.clear()

    def _took(self, bound: Tokens) -> bool:
        """True if the bound was set aside, False if it may be later. Raises RunStopped if it never will."""
        if self._stopped:
            raise self._stopped
        if self._passed_by(bound) is None:
            self._reserved = _sum(self._reserved, bound)
            self._num_in_flight += 1
            return True
        if not self._num_in_flight:
            raise self._stop(bound)
        return False

    def _passed_by(self, bound: Tokens) -> Cap | None:
        """The first cap that would be passed if all in flight and this took the most; None if none would be."""
        at_most = _sum(_sum(self.spent, self._reserved), bound)
        return next((cap for cap in self._caps if cap.of(at_most) > self._allowed(cap)), None)

    def _stop(self, bound: Tokens) -> RunStopped:
        """What ends the run; from here on nobody gets anything, or a smaller request would be begun and lost."""
        cap = self._passed_by(bound)
        spent, allowed, most = (cap.in_words(it) for it in (cap.of(self.spent), self._allowed(cap), cap.of(bound)))
        elsewhere = cap.of(self._spent_elsewhere)
        gone = f", less {cap.in_words(elsewhere)} that shares/ or what joins them spent" if elsewhere else ""
        is_part = self._num_processes > 1 or self._num_shares > 1 or elsewhere
        part = f" (this process' part of {cap.in_words(cap.most)}{gone})" if is_part else ""
        self._stopped = RunStopped(
            f"{self._file}: judge.{cap.key}: {spent} are spent of {allowed}{part}, and one more request may take "
            f"{most}; raise it and start again: no verdict is paid for twice"
        )
        return self._stopped

    def _allowed(self, cap: Cap) -> float:
        """What this process may spend of a cap in all, its earlier attempts included."""
        part = (cap.most - cap.of(self._spent_elsewhere)) / self._num_shares - cap.of(self._all_spent_before)
        left = cap.most - cap.of(self._spent_anywhere)
        return cap.of(self._spent_before) + min(part, left) / self._num_processes


def spent_in(folders: Iterable[Path], section: Judge) -> dict[str, Any]:
    """Requests, tokens and usd that all processes of runs have left in their folders; usd is None without a price."""
    return _in_all(section, *_sum_in(folders))


def _elsewhere(folder: Path) -> list[Path]:
    """Where a run has spent beside this folder of it: in its shares; or, of a share, itself and by other divisions."""
    if (share := share_of(folder)) is None:
        return list(directories_of_shares(folder).values())
    run_dir = folder.parent.parent
    return [run_dir, *(path for other, path in directories_of_shares(run_dir).items() if other.count != share.count)]


def _sum_in(folders: Iterable[Path]) -> tuple[int, Tokens]:
    """Requests and tokens of all processes that have left theirs in the folders."""
    num_requests, spent = 0, NOTHING
    for folder in folders:
        for _, requests, tokens in _spent_by_processes(folder):
            num_requests, spent = num_requests + requests, _sum(spent, tokens)
    return num_requests, spent


def _spent_by_processes(folder: Path) -> Iterator[tuple[Path, int, Tokens]]:
    """Yields the file of each process of a run, and the requests and tokens in it. Raises RunStopped if one is torn."""
    for file in sorted(folder.glob("judging-*.json")):
        try:
            entry = json.loads(file.read_text(encoding="utf-8"))
            yield file, entry["requests"], Tokens(entry["prompt_tokens"], entry["completion_tokens"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunStopped(
                f"{file}: what a judge has spent cannot be read ({type(error).__name__}: {error}); write "
                f"{json.dumps(_counts(0, NOTHING))} there, with the numbers of your bill, and start again"
            ) from None


def _in_all(section: Judge, num_requests: int, spent: Tokens) -> dict[str, Any]:
    has_price = any(price is not None for price in _prices(section))
    return {**_counts(num_requests, spent), "usd": _cap_in_usd(section).of(spent) if has_price else None}


def _counts(num_requests: int, spent: Tokens) -> dict[str, int]:
    return {"requests": num_requests, "prompt_tokens": spent.prompt, "completion_tokens": spent.completion}


def _prices(section: Judge) -> tuple[float | None, float | None]:
    return section.usd_per_million_prompt_tokens, section.usd_per_million_completion_tokens


def _cap_in_usd(section: Judge) -> Cap:
    per_token = ((price or 0.0) / TOKENS_PER_PRICE for price in _prices(section))
    return Cap("max_usd", section.max_usd or 0.0, *per_token, "USD")


def _sum(one: Tokens, other: Tokens) -> Tokens:
    return Tokens(one.prompt + other.prompt, one.completion + other.completion)


def _wake(waiting: asyncio.Future) -> None:
    if not waiting.done():
        waiting.set_result(None)
