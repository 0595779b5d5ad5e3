"""What stops a run that cannot succeed, and what warns of one that may not, with the reason and the key to change.

Each guard looks at the logs so far, and at nothing else: a run that is taken up again has these from its checkpoint,
and goes on counting where it was.

    stops            loss or gradient not finite; answers cut off; dead groups; a judge that breaks; drifting ratios
    warns (or stops) entropy collapse; reward that rises while verified accuracy on eval_data falls
"""

import itertools
import json
import math
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from open_r1.recipe import Guards, Reward
from open_r1.rewards import truths_of
from open_r1.step_process import WARNINGS_FILE, JudgeFailed, RunStopped, warnings_of

FAILED_SHARE = "failed_share"  # how a metric's name ends that tells what share of a batch a broken judge left out
EVALUATION = "eval_"  # how the names of an evaluation's metrics begin
RATIOS = {  # metric -> what it is of, and what can be done about it
    "ratio/mean": ("the policy to the one that sampled", "lower trainer.learning_rate or trainer.num_iterations"),
    "sampling/importance_sampling_ratio/mean": (
        "the policy to the engine that sampled",
        "set trainer.vllm_importance_sampling_mode: token_truncate for long answers, or find out why they differ",
    ),
}
MAX_UNJUDGED_LOGS = 3
STANDARD_ERRORS_OF_REWARD = 2.0  # by which two means of rewards have to differ before one counts as higher
STOP = "guards.stop_on_signs: true"
KEPT_GAIN = 0.5  # of the best reward's gain; the best of many means is always somewhat higher than the last

Log = dict[str, Any]


class GuardCallback(TrainerCallback):
    """Raises RunStopped at a log that shows that a run cannot succeed, and tells once of one that may not.

    `rewards` are the recipe's, of which those that verify tell the truth if guards.truth names none; `eval_tasks` has
    the task of each problem of an evaluation (None: none in particular); warnings go to `run_dir/warnings.jsonl`.
    """

    def __init__(
        self,
        guards: Guards,
        run_dir: Path,
        rewards: Sequence[Reward] = (),
        eval_tasks: Sequence[str | None] = (),
    ):
        self._guards, self._rewards = guards, rewards
        truths = truths_of(guards, rewards)
        self._num_problems = {
            reward.called: sum(map(reward.is_for, eval_tasks)) for reward in rewards if reward.called in truths
        }
        self._file = run_dir / WARNINGS_FILE
        self._told: set[tuple[str, bool]] = set()

    def on_train_begin(self, args, state, control, **kwargs):
        """Drops the warnings of steps that will be trained again, and stops again what was stopped at this very step.

        A run may be killed before its best checkpoint has become its model. It trains one step more: transformers looks
        at the end of steps alone.
        """
        kept = [warning for warning in warnings_of(self._file.parent) if warning["step"] <= state.global_step]
        self._told = {(warning["key"], bool(warning.get("stopped"))) for warning in kept}
        if any(warning.get("stopped") and warning["step"] == state.global_step for warning in kept):
            control.should_training_stop = self._guards.stop_on_signs
        if state.is_world_process_zero and self._file.exists():
            unfinished = self._file.with_suffix(".part")
            unfinished.write_text("".join(json.dumps(warning) + "\n" for warning in kept), encoding="utf-8")
            unfinished.replace(self._file)

    def on_log(self, args, state, control, **kwargs):
        logs, step = state.log_history, state.global_step
        reasons = (
            _not_finite(self._guards, logs),
            _truncated(self._guards, logs, getattr(args, "max_completion_length", None)),
            _dead_groups(self._guards, logs),
            broken_judge := _broken_judge(self._guards, logs),
            _drifting_ratio(self._guards, logs),
            _truth_out_of_range(self._guards, self._num_problems, logs),
        )
        if reason := next(filter(None, reasons), None):
            raise (JudgeFailed if reason == broken_judge else RunStopped)(f"stopped at step {step}: {reason}")
        signs = {
            "guards.min_entropy_share": _collapsed_entropy(self._guards, self._rewards, logs),
            "guards.max_eval_drop": _hacked_reward(self._guards, self._rewards, self._num_problems, logs),
            "guards.max_length_drift": _drifting_length(self._guards, logs),
            "guards.max_kl": _far_from_reference(self._guards, logs),
        }
        for key, reason in signs.items():
            if not reason:
                continue
            if self._guards.stop_on_signs and not args.load_best_model_at_end:
                raise RunStopped(f"stopped at step {step}: {reason} ({key}: null goes on all the same)")
            stops = self._guards.stop_on_signs and state.best_model_checkpoint is not None
            control.should_training_stop |= stops  # the last step has set it
            if (key, stops) not in self._told:
                self._told.add((key, stops))
                if state.is_world_process_zero:
                    self._tell({"step": step, "key": key, "reason": reason}, stops)

    def _tell(self, warning: dict[str, Any], stops: bool) -> None:
        kind, mend = "warning", f"{STOP} stops"
        if stops:
            kind, mend = "stopped", "the best checkpoint is kept"
        elif self._guards.stop_on_signs:
            mend = "it stops the run as soon as there is a best checkpoint"
        print(
            f"{kind} at step {warning['step']}: {warning['reason']} ({warning['key']}: null does not look; {mend})",
            file=sys.stderr,
        )
        warning = {**warning, "stopped": True} if stops else warning
        with self._file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(warning) + "\n")


def _not_finite(guards: Guards, logs: Sequence[Log]) -> str | None:
    for key in ("loss", "grad_norm"):
        value = logs[-1].get(key)
        if guards.stop_on_non_finite and value is not None and not math.isfinite(value):
            return (
                f"{key} is {value}; lower trainer.learning_rate or trainer.max_grad_norm "
                f"(guards.stop_on_non_finite: false goes on all the same)"
            )
    return None


def _truncated(guards: Guards, logs: Sequence[Log], max_completion_tokens: int | None) -> str | None:
    limit, key = guards.max_truncated_share, "completions/clipped_ratio"
    if limit is None or _in_a_row(logs, key, lambda share: share >= limit) < guards.truncated_steps:
        return None
    return (
        f"{logs[-1][key]:.0%} of the completions were cut off at trainer.max_completion_length="
        f"{max_completion_tokens} tokens, {guards.truncated_steps} logs in a row: nothing to reward; raise it, or "
        f"train the model to end first (guards.max_truncated_share: null goes on all the same)"
    )


def _dead_groups(guards: Guards, logs: Sequence[Log]) -> str | None:
    limit = guards.max_dead_steps
    if limit is None or _in_a_row(logs, "dead_group_share", lambda share: share >= 1.0) < limit:
        return None
    return (
        f"in {limit} logs in a row every group had equal rewards or none, so there is no gradient; choose data of "
        f"other difficulty in `data`, raise trainer.num_generations, or stop earlier with trainer.max_steps "
        f"(guards.max_dead_steps: null goes on all the same)"
    )


def _broken_judge(guards: Guards, logs: Sequence[Log]) -> str | None:
    limit = guards.max_judge_failed_share
    names = [name for name in logs[-1] if name.endswith(FAILED_SHARE) and not name.startswith(EVALUATION)]
    for name in names if limit is not None else ():
        if _in_a_row(logs, name, lambda share: share > limit) >= MAX_UNJUDGED_LOGS:
            return (
                f"{name} was {logs[-1][name]:.0%}, {MAX_UNJUDGED_LOGS} logs in a row over {limit:.0%}: the judge "
                f"breaks, and what it does not judge teaches nothing; the completions table says why "
                f"(guards.max_judge_failed_share: null goes on all the same)"
            )
    return None


def _drifting_ratio(guards: Guards, logs: Sequence[Log]) -> str | None:
    """Of what was sampled by the policy itself the ratio's mean is 1, however the single ones are spread."""
    limit = guards.max_ratio_drift
    for name, (of_what, mend) in RATIOS.items() if limit is not None else ():
        if _in_a_row(logs, name, lambda ratio: abs(ratio - 1) > limit) >= guards.ratio_steps:
            return (
                f"the mean importance ratio of {of_what} is {logs[-1][name]:.3g}, {guards.ratio_steps} logs in a row "
                f"further than {limit:g} from 1; {mend} (guards.max_ratio_drift: null goes on all the same)"
            )
    return None


def _truth_out_of_range(guards: Guards, truths: Iterable[str], logs: Sequence[Log]) -> str | None:
    for name in truths if guards.max_eval_drop is not None else ():
        value = _number(logs[-1], _key_of(name))
        if value is not None and not 0 <= value <= 1:
            return (
                f"guards.truth: the mean of {name} on eval_data is {value:.3g}, and a truth is from 0 to 1; name "
                f"another reward (guards.max_eval_drop: null does not look at it)"
            )
    return None


def _collapsed_entropy(guards: Guards, rewards: Sequence[Reward], logs: Sequence[Log]) -> str | None:
    """A policy that gets sure of itself gets right as well; one that does not is sure of something else."""
    share, num_logs = guards.min_entropy_share, guards.entropy_steps
    if share is None or _number(logs[-1], "entropy") is None or _number(logs[-1], "reward") is None:
        return None
    trained = [log for log in logs if _number(log, "entropy") is not None and _number(log, "reward") is not None]
    floor = share * statistics.fmean(log["entropy"] for log in trained[:num_logs])
    sums = [log["reward"] for log in _of_same_rewards(trained, rewards)]
    if len(sums) < 2 * num_logs or any(log["entropy"] >= floor for log in trained[-num_logs:]):
        return None
    first, now = sums[:num_logs], sums[-num_logs:]
    at_first, at_last = statistics.fmean(first), statistics.fmean(now)
    at_best = max(statistics.fmean(sums[end - num_logs : end]) for end in range(num_logs, len(sums) + 1))
    if _is_higher(now, first) and at_last - at_first > KEPT_GAIN * (at_best - at_first):
        return None
    return (
        f"entropy was under {floor:.2g}, {share:.0%} of what it was at first, {num_logs} logs in a row, and reward is "
        f"{at_last:.3g} ({at_first:.3g} at first, {at_best:.3g} at best): the policy gives the same answers and learns "
        f"nothing more; lower trainer.learning_rate, or raise trainer.epsilon_high or trainer.temperature"
    )


def _hacked_reward(
    guards: Guards, rewards: Sequence[Reward], num_problems_of: Mapping[str, int], logs: Sequence[Log]
) -> str | None:
    """`num_problems_of` has the truths, and how many problems of an evaluation each is for.

    Beside a reward that is the truth as well another one may rise while their sum falls: each is looked at by itself.
    """
    limit = guards.max_eval_drop
    others = [f"rewards/{each.called}/mean" for each in rewards if each.weight and each.called not in num_problems_of]
    for name, num_problems in num_problems_of.items() if limit is not None else ():
        key = _key_of(name)
        if _number(logs[-1], key) is None or not num_problems:
            continue
        evaluations = list(_evaluations(_of_same_rewards(logs, rewards), key, ["reward", *others]))
        best, now = max(evaluations, key=lambda evaluation: evaluation.truth), evaluations[-1]
        error = math.hypot(*(_standard_error(each.truth, num_problems) for each in (best, now)))
        drop = best.truth - now.truth
        if drop > _limit_of_many(limit, len(evaluations)) * error and (risen := _risen(best, now)):
            where = "" if best.step else " (before the first step, of which there is no checkpoint)"
            then, since = (statistics.fmean(each.rewards[risen]) for each in (best, now))
            return (
                f"{name} on eval_data fell from {best.truth:.3g}{where} to {now.truth:.3g}, {drop / error:.1f} "
                f"standard errors, while {risen} in training rose from {then:.3g} to {since:.3g}: what is rewarded "
                f"is no longer what is wanted; read the completions (make why), and stop at the best with "
                f"trainer.load_best_model_at_end or trainer.max_steps"
            )
    return None


def _limit_of_many(limit: float, num_evaluations: int) -> float:
    """The standard errors by which any two of so many evaluations differ as seldom as two alone differ by `limit`.

    A tail of the normal distribution is about exp(-z^2 / 2), so to be so many times rarer takes z^2 + 2 log of that.
    """
    num_pairs = max(1, num_evaluations * (num_evaluations - 1) // 2)
    return math.sqrt(limit**2 + 2 * math.log(num_pairs))


def _risen(best: "_Evaluation", now: "_Evaluation") -> str | None:
    """The first of the rewards that is higher now: the sum at all, one by itself by more than its scatter explains."""
    for name, then in best.rewards.items():
        since = now.rewards[name]  # which has all that an earlier one has
        is_one_of_many = name != "reward" and min(len(then), len(since)) > 1
        if _is_higher(since, then) if is_one_of_many else statistics.fmean(since) > statistics.fmean(then):
            return name
    return None


def _drifting_length(guards: Guards, logs: Sequence[Log]) -> str | None:
    limit, key, num_logs = guards.max_length_drift, "completions/mean_length", guards.entropy_steps
    lengths = [length for log in logs if (length := _number(log, key)) is not None]
    if limit is None or len(lengths) < 2 * num_logs or _number(logs[-1], key) is None:
        return None
    at_first, now = statistics.fmean(lengths[:num_logs]), statistics.fmean(lengths[-num_logs:])
    if at_first / limit <= now <= at_first * limit:
        return None
    return (
        f"completions have {now:.0f} tokens, and had {at_first:.0f} at first: what is rewarded may be their length; "
        f"read the completions (make why)"
    )


def _far_from_reference(guards: Guards, logs: Sequence[Log]) -> str | None:
    limit, num_logs = guards.max_kl, guards.entropy_steps
    if limit is None or _in_a_row(logs, "kl", lambda kl: kl > limit) < num_logs:
        return None
    return (
        f"the policy was {logs[-1]['kl']:.3g} nats a token from its reference, more than {limit:g} in {num_logs} logs "
        f"in a row: a reward model knows nothing of answers so different from its pairs; raise trainer.beta, or lower "
        f"trainer.learning_rate"
    )


def _key_of(truth: str) -> str:
    return f"{EVALUATION}rewards/{truth}/mean"


def _of_same_rewards(logs: Sequence[Log], rewards: Sequence[Reward]) -> list[Log]:
    """The logs since a reward has last begun or ended (first_step, last_step), and the evaluation right before that.

    The sum of the rewards is another one in each such stretch, and says nothing beside that of an earlier one.
    """
    changes = [step for reward in rewards if reward.weight for step in (reward.first_step, (reward.last_step or 0) + 1)]
    begin = max((step for step in changes if step <= logs[-1]["step"]), default=1)
    kept, last_trained = [], 0
    for log in logs:
        is_of_training = "reward" in log  # of the steps since the log of training before it
        if (last_trained if is_of_training else log["step"]) >= begin - 1:
            kept.append(log)
        if is_of_training:
            last_trained = log["step"]
    return kept


@dataclass(frozen=True)
class _Evaluation:
    """An evaluation's truth and step, and the means of rewards in training since the one before it, a list for each."""

    truth: float
    rewards: dict[str, list[float]]
    step: int


def _evaluations(logs: Sequence[Log], key: str, rewards: Sequence[str]) -> Iterator[_Evaluation]:
    """Yields each evaluation that has `key`.

    One at the very start has the first means that follow; one that nothing was logged before has those of the one
    before.
    """
    means = {name: [first] for name in rewards if (first := next(_numbers(logs, name), None)) is not None}
    since: list[Log] = []
    for log in logs:
        if _number(log, "reward") is not None:
            since.append(log)
        elif _number(log, key) is not None:
            means |= {name: values for name in rewards if (values := list(_numbers(since, name)))}
            since = []
            yield _Evaluation(log[key], dict(means), log["step"])


def _numbers(logs: Iterable[Log], key: str) -> Iterator[float]:
    return (value for log in logs if (value := _number(log, key)) is not None)


def _standard_error(share: float, num_problems: int) -> float:
    """Of the mean of values from 0 to 1, one for each problem; never zero (one right and one wrong more are assumed).

    Several answers to one problem are taken for one: it is rather too large than too small.
    """
    share = (share * num_problems + 1) / (num_problems + 2)
    return math.sqrt(share * (1 - share) / num_problems)


def _is_higher(values: Sequence[float], others: Sequence[float]) -> bool:
    """True if the mean is higher by more than the values' own scatter explains."""
    error = math.hypot(*(statistics.stdev(each) / math.sqrt(len(each)) for each in (values, others)))
    return statistics.fmean(values) - statistics.fmean(others) > STANDARD_ERRORS_OF_REWARD * error


def _in_a_row(logs: Sequence[Log], key: str, holds: Callable[[float], bool]) -> int:
    """How many of the logs that have `key` it holds of, counted back from the last log; 0 if that has no such key."""
    if _number(logs[-1], key) is None:
        return 0
    values = (value for log in reversed(logs) if (value := _number(log, key)) is not None)
    return sum(1 for _ in itertools.takewhile(holds, values))


def _number(log: Log, key: str) -> float | None:
    """The metric, None if it was not logged or has no value."""
    value = log.get(key)
    return None if value is None or math.isnan(value) else value
