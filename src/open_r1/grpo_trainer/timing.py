"""Where the seconds of an optimizer step go, and how many tokens each phase handles in one."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

PHASES = ("generation", "rewards", "logprobs", "backward", "waiting", "weight_sync")
WITH_TOKENS = ("generation", "logprobs", "backward")


class Phases:
    """Stopwatches of the phases of a step; a phase inside another is not counted in the outer one."""

    def __init__(self, accelerator: Accelerator, clock: Callable[[], float] = time.perf_counter):
        self._accelerator, self._clock = accelerator, clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since = self._step_began = clock()

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        self._note()
        self._running.append(phase)
        try:
            yield
        finally:
            self._note()
            self._running.pop()

    def count_tokens(self, phase: str, num_tokens: int) -> None:
        self._tokens[phase] += num_tokens

    def metrics(self) -> dict[str, float]:
        """Seconds (mean over processes) and tokens per second (of all processes) since the last call; every process
        has to call it."""
        now = self._clock()
        step, self._step_began = now - self._step_began, now
        local = [step, *(self._seconds[p] for p in PHASES), *(self._tokens[p] for p in WITH_TOKENS)]
        self._seconds.clear()
        self._tokens.clear()
        vector = torch.tensor([local], dtype=torch.float64, device=self._accelerator.device)
        gathered = self._accelerator.gather(vector)
        step, *seconds = gathered.mean(dim=0).tolist()[: 1 + len(PHASES)]
        tokens = dict(zip(WITH_TOKENS, gathered.sum(dim=0).tolist()[1 + len(PHASES) :], strict=True))
        result = {f"seconds/{phase}": value for phase, value in zip(PHASES, seconds, strict=True)}
        result["seconds/step"] = step
        result["seconds/other"] = step - sum(seconds)
        for phase, count in tokens.items():
            if result[f"seconds/{phase}"] > 0:
                result[f"tokens_per_second/{phase}"] = count / result[f"seconds/{phase}"]
        result["tokens_per_second/step"] = tokens["generation"] / step
        return result

    def _note(self) -> None:
        if self._accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        now = self._clock()
        if self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
