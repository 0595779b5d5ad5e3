"""Where the seconds of an optimizer step go, how many tokens each phase handles in one, and the memory it takes.

A step lasts from one step's last gradient to the next one's, so that nothing between the two is left out. What comes
after the gradients (the optimizer's own step, the log, the completions table, an evaluation, a checkpoint) counts in
the step that follows, as `other`; after the last step nobody counts it. The first step after a start or a resume
begins with its first phase: loading a model or a checkpoint and skipping what was trained on are in none.

    generation   sampling, until the process has its completions
    rewards      waiting for the rewards; what was judged while others were still sampled costs nothing here
    logprobs     log-probabilities of the completions without gradients: of the policy that sampled, of the reference
    backward     the loss, forward and backward, and the exchange of gradients
    waiting      for other processes: before the rewards and before the loss; within a phase it counts in the phase
    weight_sync  handing new weights to vLLM
    other        all the rest, data and optimizer among it

Shapes: W processes, F phases.
"""

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator

import torch
from accelerate import Accelerator

PHASES = ("generation", "rewards", "logprobs", "backward", "waiting", "weight_sync")
OTHER = "other"
WITH_TOKENS = ("generation", "logprobs", "backward")
PEAK_MEMORY = "memory/peak_gb"


class Phases:
    """Stopwatches of the phases of a step; a phase inside another is not counted in the outer one."""

    def __init__(self, accelerator: Accelerator, clock: Callable[[], float] = time.perf_counter):
        self._accelerator, self._clock = accelerator, clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._tokens: dict[str, int] = defaultdict(int)
        self._running: list[str] = []
        self._since = 0.0
        self._step_began: float | None = None

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
        """Seconds (mean over processes) and tokens per second (of all processes) since the last call, and the most
        memory that torch has had on one GPU so far (in 10^9 bytes); every process has to call it.

        A phase that took no time has no tokens per second. Those of `step` are the sampled ones alone.
        """
        self._note()
        step, self._step_began = self._since - self._step_began, self._since
        on_gpu = self._accelerator.device.type == "cuda"
        local = [
            torch.cuda.max_memory_allocated() / 1e9 if on_gpu else 0.0,
            step,
            *(self._seconds[phase] for phase in PHASES),
            *(self._tokens[phase] for phase in WITH_TOKENS),
        ]
        self._seconds.clear()
        self._tokens.clear()
        gathered = self._accelerator.gather(torch.tensor([local], dtype=torch.float64, device=self._accelerator.device))
        memory_W1, step_W1, seconds_WF, tokens_WF = gathered.cpu().split([1, 1, len(PHASES), len(WITH_TOKENS)], dim=1)
        step = step_W1.mean().item()
        seconds = dict(zip(PHASES, seconds_WF.mean(dim=0).tolist(), strict=True))
        tokens = dict(zip(WITH_TOKENS, tokens_WF.sum(dim=0).tolist(), strict=True))
        rates = {phase: tokens[phase] / seconds[phase] for phase in WITH_TOKENS if seconds[phase] > 0}
        seconds |= {OTHER: step - sum(seconds.values()), "step": step}
        rates["step"] = tokens["generation"] / step
        return {
            **{f"seconds/{name}": value for name, value in seconds.items()},
            **{f"tokens_per_second/{name}": value for name, value in rates.items()},
            **({PEAK_MEMORY: memory_W1.max().item()} if on_gpu else {}),
        }

    def _note(self) -> None:
        if self._accelerator.device.type == "cuda":
            torch.cuda.synchronize()
        now = self._clock()
        if self._step_began is None:
            self._step_began = now
        elif self._running:
            self._seconds[self._running[-1]] += now - self._since
        self._since = now
