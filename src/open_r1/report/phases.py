"""metrics.jsonl -> where the seconds of the optimizer steps went; `table` and `pictures` show it."""

from dataclasses import dataclass

import pandas as pd

from open_r1.report.reading import Run

SECONDS, RATES = "seconds/", "tokens_per_second/"
STEP = "step"
WARM_UP_STEPS = 2  # memory is claimed, kernels are chosen, pools of workers start
MEANINGS = {  # short, or the table does not fit a terminal of 80 columns
    "generation": "sampling",
    "rewards": "waiting for the last rewards",
    "logprobs": "log-probabilities of the samples",
    "backward": "the loss, forward and backward",
    "waiting": "waiting for other processes",
    "weight_sync": "new weights for vLLM",
    "other": "optimizer, data, logs, checkpoints",
}
MEAN_FACTS = {  # metric -> how its mean over the steps is told
    "completions/mean_length": "{:.1f} tokens a completion",
    "padded_share": "{:.1%} of the positions that the loss computes are padding",
    "dead_group_share": "{:.1%} of the groups are dead: all their rewards are equal",
    "dynamic_sampling/factor": "{:.2f} times the batch is sampled, to replace dead groups",
    "sampling/sampling_logp_difference/mean": "{:.2g} nats a token is what policy and vLLM differ by",
}
HIGHEST_FACTS = {  # metric -> how its highest value is told, warm-up included
    "sampling/sampling_logp_difference/max": "{:.2g} nats is the most that they differ by at one token",
    "memory/peak_gb": "{:.1f} GB is the most memory that torch had on one GPU",
}


@dataclass(frozen=True)
class PhaseTime:
    """What one phase took of a step, in the mean; tokens per second are None where the phase has none."""

    name: str
    seconds: float
    share: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class StepTimes:
    """The phases of a run's optimizer steps."""

    phases: list[PhaseTime]
    whole: PhaseTime
    """The step itself; its tokens are the sampled ones."""
    first_step: int
    last_step: int
    """These and what is between them is what the means are of."""
    seconds: pd.DataFrame
    """A row for each log, warm-up among them, by its step; a column for each phase: mean seconds a step."""
    num_steps: pd.Series
    """Optimizer steps that each log is the mean of."""
    facts: list[str]
    """What MEAN_FACTS and HIGHEST_FACTS say of it, as far as it was logged."""


def step_times(run: Run, warm_up_steps: int = WARM_UP_STEPS) -> StepTimes | None:
    """None if the run logged no seconds by phase. Logs with warm-up in them count only where there are no others."""
    if SECONDS + STEP not in run.metrics:
        return None
    metrics = run.metrics.apply(pd.to_numeric, errors="coerce")
    metrics = metrics[metrics[SECONDS + STEP].notna()]
    steps_before = pd.Series([0, *metrics.index[:-1]], metrics.index)
    num_steps = metrics.index.to_series() - steps_before
    counted = steps_before >= warm_up_steps
    if not counted.any():
        counted = ~counted
    names = [name for name in MEANINGS if SECONDS + name in metrics]
    phases = [_phase_time(name, metrics[counted], num_steps[counted]) for name in names]
    return StepTimes(
        phases=phases,
        whole=_phase_time(STEP, metrics[counted], num_steps[counted]),
        first_step=int(steps_before[counted].iloc[0]) + 1,
        last_step=int(metrics.index[-1]),
        seconds=metrics[[SECONDS + name for name in names]].set_axis(names, axis=1),
        num_steps=num_steps,
        facts=_facts(metrics, counted, num_steps),
    )


def _phase_time(name: str, metrics: pd.DataFrame, num_steps: pd.Series) -> PhaseTime:
    seconds = metrics[SECONDS + name] * num_steps
    # All tokens over all seconds: a mean of the steps' rates would let a short step count as much as a long one.
    tokens = (metrics[RATES + name] * seconds).sum() if RATES + name in metrics else 0.0
    return PhaseTime(
        name=name,
        seconds=seconds.sum() / num_steps.sum(),
        share=seconds.sum() / (metrics[SECONDS + STEP] * num_steps).sum(),
        tokens_per_second=tokens / seconds.sum() if tokens else None,
    )


def _facts(metrics: pd.DataFrame, counted: pd.Series, num_steps: pd.Series) -> list[str]:
    facts = []
    for name, text in MEAN_FACTS.items():
        values = metrics[name][counted].dropna() if name in metrics else pd.Series(dtype=float)
        if not values.empty:
            weights = num_steps[values.index]
            facts.append(text.format((values * weights).sum() / weights.sum()))
    return facts + [text.format(metrics[name].max()) for name, text in HIGHEST_FACTS.items() if name in metrics]
