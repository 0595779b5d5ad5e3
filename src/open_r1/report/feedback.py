"""preferences.json, reward_model.json -> rows of text: what a judge's preferences and a reward model are worth."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from open_r1.report.reading import Run, json_object, tolerant
from open_r1.report.scores import finite
from open_r1.report.table import NONE, cost_text

TOKENS_READ, TOKENS_WRITTEN = "prompt_tokens", "completion_tokens"  # in judging-N.json, one a process


class Fact(NamedTuple):
    """A row: what was measured, what came out, as text, and what that tells a newcomer."""

    what: str
    value: str
    meaning: str


def preference_facts(stage: Run, notes: list[str]) -> list[Fact]:
    """What the judge of a `preferences` step said, and how far it can be trusted; nothing of another step."""
    counts = stage.sampling
    if stage.step != "preferences" or not counts:
        return []
    judge = counts.get("judge") or {}
    verdicts = judge.get("verdicts") or 0
    return [
        Fact("verdicts", f"{verdicts:,}", f"of them {judge.get('cached') or 0:,} were known from before"),
        Fact(
            "unreadable",
            _count_and_share(judge.get("unreadable"), verdicts),
            "not in the form that was asked for, so they score nothing",
        ),
        Fact("refused", _count_and_share(judge.get("refused"), verdicts), "by the judge's server"),
        Fact(
            "position bias",
            _signed(judge.get("position_bias"), " points"),
            "mean score of the answers shown first less that of those shown last; a dash if all were judged alone",
        ),
        Fact(
            "spread",
            _number(judge.get("spread"), " points"),
            "standard deviation of an answer's score between its judgements",
        ),
        Fact(
            "correlation with length",
            _signed(counts.get("length_correlation")),
            "of score and tokens among the answers to one prompt; near +1 the judge may do no more than count",
        ),
        Fact(
            "longer is chosen",
            percent_text(counts.get("longer_is_chosen")),
            f"of the pairs; {_number(counts.get('chosen_tokens'))} tokens in the mean against "
            f"{_number(counts.get('rejected_tokens'))} of the rejected answer",
        ),
        Fact("tokens sampled", f"{counts.get('tokens') or 0:,}", "by the policy, those of dropped answers among them"),
        *_spent(stage, notes),
    ]


def _spent(stage: Run, notes: list[str]) -> list[Fact]:
    """What the judge read and wrote and what that cost, by the record; of a run that is not over by its files."""
    in_all = stage.record.get("judging")
    files = [] if in_all else sorted(stage.folder.glob("judging-*.json"))
    spent = [in_all] if in_all else [entry for file in files if (entry := tolerant(json_object, file, notes))]
    if not spent:
        return []
    read, written = (sum(entry.get(key) or 0 for entry in spent) for key in (TOKENS_READ, TOKENS_WRITTEN))
    facts = [Fact("tokens of the judge", f"{read:,} + {written:,}", "read and written")]
    if (usd := (in_all or {}).get("usd")) is not None:
        facts.append(Fact("cost of the judge", cost_text(usd), "of all attempts and shares, by the prices of `judge`"))
    return facts


def reward_model_facts(report: Mapping[str, Any]) -> list[Fact]:
    """What a reward model is worth, by pairs that it was not trained on; nothing without a report."""
    if not report:
        return []
    return [
        Fact(
            "accuracy",
            f"{percent_text(report.get('accuracy'))} ± {percent_text(report.get('accuracy_stderr'))}",
            f"of {report.get('num_pairs') or 0:,} pairs; right is the higher reward for the better answer",
        ),
        Fact(
            "where the better answer is longer",
            percent_text(report.get("accuracy_if_longer")),
            f"accuracy in {percent_text(report.get('longer_is_chosen'))} of the pairs whose lengths differ",
        ),
        Fact(
            "where it is shorter",
            percent_text(report.get("accuracy_if_shorter")),
            "accuracy in the other pairs; far below the row above it has learned to count tokens",
        ),
        Fact(
            "correlation with length",
            _signed(report.get("length_correlation")),
            "of the differences of reward and of tokens within a pair (rank correlation)",
        ),
        Fact(
            "calibration error",
            _number(report.get("calibration_error")),
            "how far it is from being right as often as it is sure",
        ),
        Fact("loss", _number(report.get("loss"), " nats"), "0.693 is what knowing nothing costs"),
        Fact(
            "rewards",
            f"{_signed(report.get('mean'))} ± {_number(report.get('std'))}",
            "mean and standard deviation over all answers; the scale of a reward model is its own",
        ),
    ]


def percent_text(share: float | None) -> str:
    """`98.6 %`; a dash for None."""
    return NONE if finite(share) is None else f"{100 * share:.1f} %"


def _count_and_share(count: int | None, whole: int) -> str:
    if count is None:
        return NONE
    return f"{count:,} ({100 * count / whole:.1f} %)" if whole else f"{count:,}"


def _number(value: float | None, unit: str = "") -> str:
    return NONE if finite(value) is None else f"{value:,.3g}{unit}"


def _signed(value: float | None, unit: str = "") -> str:
    return NONE if finite(value) is None else f"{value:+.2f}{unit}"
