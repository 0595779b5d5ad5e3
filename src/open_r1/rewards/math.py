"""The accuracy reward: the answer that follows the thinking, judged against the gold answer."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from open_r1.judging import Verdict, shared_pool
from open_r1.judging.mathematics.shortcut import without_algebra
from open_r1.judging.pool import DEFAULT_CPU_SECONDS
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards.completion import Answer, AnswerIn, Completion, answer_of, completion_text


@dataclass(frozen=True)
class Judged:
    """One completion's answer and the verdict on it."""

    answer: Answer
    verdict: Verdict


def accuracy_reward(
    completions: Sequence[Completion],
    solution: Sequence[str],
    *,
    thinking: Thinking = Thinking(),
    answer_in: AnswerIn = "both",
    cpu_seconds: float = DEFAULT_CPU_SECONDS,
    log_extra: Callable | None = None,
    log_metric: Callable | None = None,
    **columns,
) -> list[float | None]:
    r"""1.0 if the answer means what the gold answer means, 0.0 if not or if there is none, None if nobody can say.

    One for each completion, in order; None if the gold cannot be parsed or if the judge itself broke, never for a
    strange answer. The answer is what stands in `\boxed{}` or in an `<answer>` block (`answer_in`: boxed, answer or
    both) after the thinking; several that differ are none. A gold without markup (`2\sqrt{3}`) means what it means
    boxed. Whatever is compared costs at most `cpu_seconds` of CPU time, in a process of its own.

    Source: DeepSeek-R1 (Nature s41586-025-09422-z), rule-based accuracy rewards. What counts as the same is told, and
    tested, in judging/mathematics/README.md. `log_extra` and `log_metric` are TRL's: they put each answer and its
    verdict in the completions table, and shares of None and of budget kills among the metrics. Raises RecipeError if
    `cpu_seconds` is not positive.
    """
    if cpu_seconds <= 0:
        raise RecipeError(f"accuracy: cpu_seconds is {cpu_seconds}; give more than 0")
    judged, counts = judge_completions(completions, solution, thinking, answer_in, cpu_seconds)
    if log_extra is not None:
        log_extra("accuracy_answer", [" | ".join(one.answer.texts)[:MAX_SHOWN] for one in judged])
        log_extra("accuracy_reason", [reason_of(one) for one in judged])
    if log_metric is not None:
        for name, value in counts.items():
            log_metric(f"accuracy/{name}", value)
    return [one.verdict.score for one in judged]


MAX_SHOWN = 200  # characters of an answer in the completions table


def reason_of(judged: Judged) -> str:
    """Where the answer stood and how it was judged, in a line."""
    return f"{judged.answer.where}: {judged.verdict.reason}" if judged.answer.texts else judged.verdict.reason


def judge_completions(
    completions: Sequence[Completion],
    solution: Sequence[str],
    thinking: Thinking,
    answer_in: AnswerIn,
    cpu_seconds: float = DEFAULT_CPU_SECONDS,
) -> tuple[list[Judged], dict[str, float]]:
    """Each completion's answer with its verdict, and what the batch cost: shares and counts for the metrics."""
    answers = [answer_of(completion_text(completion), thinking, answer_in) for completion in completions]
    solution = ["" if gold is None else str(gold) for gold in solution]  # a column of numbers is one of golds, too
    pairs = {
        (gold, text): without_algebra(gold, text)
        for gold, answer in zip(solution, answers, strict=True)
        for text in answer.texts or ("",)  # whether the gold can be parsed is asked even where there is no answer
    }
    pool = shared_pool(cpu_seconds)
    hard = [pair for pair, verdict in pairs.items() if verdict is None]
    if hard:
        pairs |= zip(hard, pool.judge(hard), strict=True)
    judged = [
        Judged(answer, _together(answer, [pairs[gold, text] for text in answer.texts or ("",)]))
        for gold, answer in zip(solution, answers, strict=True)
    ]
    unjudged = Counter(one.verdict.is_about_gold for one in judged if one.verdict.score is None)
    counts = pool.take_counts()
    return judged, {
        "unparsed_gold_share": unjudged[True] / max(1, len(judged)),
        "judge_failed_share": unjudged[False] / max(1, len(judged)),
        "no_answer_share": sum(not answer.texts for answer in answers) / max(1, len(judged)),
        "pairs": sum(len(answer.texts or ("",)) for answer in answers),
        "budget_kills": counts.budget_kills,
        "judge_crashes": counts.crashes,
    }


def _together(answer: Answer, verdicts: list[Verdict]) -> Verdict:
    """One verdict on an answer that is given several times: no verdict if one has none, else the worst."""
    for verdict in verdicts:
        if verdict.score is None:
            return verdict
    if not answer.texts:
        return Verdict(0.0, answer.where)
    worst = min(verdicts, key=lambda verdict: verdict.score)
    if len(verdicts) > 1 and worst.score == 0.0:
        return Verdict(0.0, f"{len(verdicts)} different answers, and not all of them right")
    return worst
