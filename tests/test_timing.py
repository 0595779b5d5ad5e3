"""Where the seconds of a step go, on a clock that is moved by hand."""

from collections.abc import Sequence

import pytest
import torch

from open_r1.grpo_trainer.timing import OTHER, PEAK_MEMORY, PHASES, WITH_TOKENS, Phases
from open_r1.report.phases import HIGHEST_FACTS, MEANINGS


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Processes:
    """Accelerate's place, for as many processes as there are rows: ours, and what the others would bring."""

    device = torch.device("cpu")

    def __init__(self, others: Sequence[torch.Tensor] = ()):
        self.others = others

    def gather(self, tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, *self.others])


@pytest.fixture
def clock() -> Clock:
    return Clock()


def spend(phases: Phases, clock: Clock, plan: Sequence) -> None:
    """Goes through (phase, what happens in it), where a number is so many seconds."""
    for part in plan:
        if isinstance(part, tuple):
            phase, inside = part
            with phases.measure(phase):
                spend(phases, clock, inside)
        else:
            clock.now += part


def seconds(metrics: dict[str, float]) -> dict[str, float]:
    """The phases that took any time."""
    found = {name.partition("/")[2]: value for name, value in metrics.items() if name.startswith("seconds/")}
    return {name: value for name, value in found.items() if value}


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ([("generation", [4.0])], {"generation": 4.0}),
        ([("generation", [4.0]), ("generation", [1.0])], {"generation": 5.0}),
        ([("generation", [4.0]), 2.0, ("backward", [1.0])], {"generation": 4.0, "backward": 1.0, OTHER: 2.0}),
        ([("backward", [1.0, ("waiting", [2.0]), 4.0])], {"backward": 5.0, "waiting": 2.0}),
        ([("backward", [("logprobs", [("rewards", [1.0]), 2.0])])], {"logprobs": 2.0, "rewards": 1.0}),
        ([("generation", [1.0, ("generation", [2.0]), 4.0])], {"generation": 7.0}),
        (
            [("backward", [1.0, (OTHER, [2.0, ("generation", [4.0]), 8.0])])],
            {"backward": 1.0, "generation": 4.0, OTHER: 10.0},
        ),
        ([("generation", []), 0.5], {OTHER: 0.5}),
    ],
    ids=["one", "twice", "one after the other", "nested", "nested twice", "in itself", "in no phase", "none"],
)
def test_each_second_counts_in_one_phase(clock, plan, expected):
    phases = Phases(Processes(), clock)
    spend(phases, clock, plan)
    assert seconds(phases.metrics()) == {**expected, "step": sum(expected.values())}


def test_the_first_step_begins_with_its_first_phase(clock):
    phases = Phases(Processes(), clock)
    clock.now += 300.0  # a model or a checkpoint is loaded
    spend(phases, clock, [("generation", [4.0]), 1.0])
    assert seconds(phases.metrics()) == {"generation": 4.0, OTHER: 1.0, "step": 5.0}


def test_what_happens_between_two_steps_belongs_to_the_second(clock):
    phases = Phases(Processes(), clock)
    spend(phases, clock, [("generation", [4.0])])
    phases.metrics()
    spend(phases, clock, [30.0, ("generation", [2.0])])  # a checkpoint is saved
    assert seconds(phases.metrics()) == {"generation": 2.0, OTHER: 30.0, "step": 32.0}


def test_a_phase_that_goes_on_over_the_end_of_a_step_is_cut_there(clock):
    phases = Phases(Processes(), clock)
    with phases.measure("backward"):
        clock.now += 1.0
        first = phases.metrics()
        clock.now += 2.0
    assert seconds(first) == {"backward": 1.0, "step": 1.0}
    assert seconds(phases.metrics()) == {"backward": 2.0, "step": 2.0}


def test_an_exception_ends_the_phases_it_leaves(clock):
    phases = Phases(Processes(), clock)
    with pytest.raises(MemoryError), phases.measure("backward"), phases.measure("logprobs"):
        clock.now += 1.0
        raise MemoryError
    clock.now += 2.0
    assert seconds(phases.metrics()) == {"logprobs": 1.0, OTHER: 2.0, "step": 3.0}


def test_tokens_per_second_are_of_a_phase_s_own_seconds(clock):
    phases = Phases(Processes(), clock)
    spend(phases, clock, [("generation", [4.0]), ("backward", [2.0]), 2.0])
    phases.count_tokens("generation", 60)
    phases.count_tokens("generation", 20)
    phases.count_tokens("backward", 300)
    rates = {name: value for name, value in phases.metrics().items() if name.startswith("tokens_per_second/")}
    assert rates == {
        "tokens_per_second/generation": 20.0,
        "tokens_per_second/backward": 150.0,
        "tokens_per_second/step": 10.0,  # of the sampled ones
    }


def test_tokens_are_those_of_one_step(clock):
    phases = Phases(Processes(), clock)
    spend(phases, clock, [("generation", [1.0])])
    phases.count_tokens("generation", 60)
    phases.metrics()
    spend(phases, clock, [("generation", [1.0])])
    phases.count_tokens("generation", 7)
    assert phases.metrics()["tokens_per_second/generation"] == 7.0


def test_seconds_are_the_mean_and_tokens_the_sum_over_processes(clock):
    [columns] = _row_sent_by(generation_seconds=2.0, num_tokens=50, step_seconds=10.0, clock=Clock())
    phases = Phases(Processes([columns]), clock)
    spend(phases, clock, [("generation", [6.0]), 4.0])
    phases.count_tokens("generation", 150)
    metrics = phases.metrics()
    assert seconds(metrics) == {"generation": 4.0, OTHER: 6.0, "step": 10.0}
    assert metrics["tokens_per_second/generation"] == 200 / 4.0
    assert metrics["tokens_per_second/step"] == 200 / 10.0


def _row_sent_by(generation_seconds: float, num_tokens: int, step_seconds: float, clock: Clock) -> list[torch.Tensor]:
    """What another process of such a step would bring."""
    sent = []

    class Sending(Processes):
        def gather(self, tensor):
            sent.append(tensor)
            return tensor

    phases = Phases(Sending(), clock)
    spend(phases, clock, [("generation", [generation_seconds]), step_seconds - generation_seconds])
    phases.count_tokens("generation", num_tokens)
    phases.metrics()
    return sent


def test_the_report_knows_every_phase():
    assert set(MEANINGS) == {*PHASES, OTHER} and set(WITH_TOKENS) < set(PHASES)
    assert PEAK_MEMORY in HIGHEST_FACTS


def test_a_cpu_has_no_memory_of_its_own_to_report(clock):
    phases = Phases(Processes(), clock)
    spend(phases, clock, [("generation", [1.0])])
    assert set(phases.metrics()) == {
        *(f"seconds/{phase}" for phase in (*PHASES, OTHER, "step")),
        *("tokens_per_second/generation", "tokens_per_second/step"),
    }
