"""Preferences: completions -> pairs of a better and a worse answer to one prompt, every drop counted by its reason.

DeepSeek-R1 (Nature s41586-025-09422-z, Methods): answers to a prompt are judged four times in random order, pairs of
which the mean scores differ by more than 1 are kept, and the lengths of better and worse answers are made alike. Tulu 3
(arXiv 2411.15124, section 5.1): of several answers the best one is chosen, and one of the others rejected.

    completions/   every completion with its score, None without a verdict
    kept/          the pairs, as conversations, with what they come from; a data set for `data: - path:`
"""

import functools
import json
import random
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
from accelerate import PartialState

from open_r1 import data
from open_r1.curation.rows import (
    MESSAGES,
    NO_VERDICT,
    NOT_ASKED,
    OF_ANSWER,
    OF_PAIR,
    PROVENANCE,
    REFUSED,
    TRUNCATED,
    groups,
    number_of,
    write_rows,
)
from open_r1.curation.sampling import (
    Judge,
    ai_judge_of,
    check_judged,
    check_refused,
    counted_by_judge,
    leave_completions,
    sampling_counts,
    verdicts_in,
    verdicts_of,
)
from open_r1.curation.traces import provenance_of
from open_r1.feedback import load_rubric
from open_r1.feedback.judge import report_of
from open_r1.generation.backends import thinking_after
from open_r1.recipe import Preferences, Recipe
from open_r1.shares import COUNTS_OF_TRACES
from open_r1.stages import KEPT
from open_r1.step_process import RunStopped
from open_r1.whole_files import whole

NOT_SCORED = f"score{NO_VERDICT}"
TOO_FEW, ALIKE, CLOSE, UNLIKE, UNBALANCED, BEYOND = (
    "fewer than two scored answers",
    "answers all alike",
    "scores too close",
    "lengths too different",
    "unbalanced lengths",
    "beyond max_pairs",
)
MENDS = {  # why prompts have no pair -> what may give them one
    TOO_FEW: "see what completions_dropped in preferences.json says",
    ALIKE: "raise preferences.temperature",
    CLOSE: "lower preferences.min_margin, or raise preferences.samples",
    UNLIKE: "raise preferences.max_length_ratio",
    UNBALANCED: "give more prompts, or write preferences.balance_lengths: false",
    BEYOND: "raise preferences.max_pairs",
}
DIGITS = 9  # of a score: what a sum of floats leaves behind them makes no answer the better one
NEGLIGIBLE = 1e-12  # a share of a sum of squares that is rounding, and no variation


@dataclass(frozen=True)
class Pair:
    """Which two rows of a file are a pair: of the group of one prompt, the better one and the worse one."""

    group: int
    chosen: int
    rejected: int
    longer: int
    """1 if the chosen answer is the longer one, -1 if it is the shorter one, 0 if both have as many tokens."""


def leave_pairs(recipe: Recipe, run_dir: Path, processes: PartialState) -> None:
    """Leaves completions/ and kept/ in `run_dir`, and their counts in preferences.json.

    In the directory of a share, its completions alone. What an earlier attempt, or a share that was taken up, has
    finished is neither sampled nor judged again. Raises RunStopped if the judge breaks, a server fails, the judge's cap
    is reached, or no pair is kept.
    """
    counts_file = run_dir / COUNTS_OF_TRACES[recipe.step]
    if counts_file.exists():
        _check_kept(recipe, json.loads(counts_file.read_text(encoding="utf-8")))
        return
    prompts = data.load_data(recipe)
    schema = schema_of(prompts.features.arrow_schema)
    num_completions = len(prompts) * recipe.preferences.samples
    judge_after = functools.partial(_judge, recipe, run_dir, num_completions)
    files = leave_completions(recipe, run_dir, processes, prompts, schema, judge_after)
    if processes.is_main_process and files is not None:
        counts = keep_pairs(run_dir, files, recipe.preferences, recipe.seed, provenance_of(recipe, run_dir))
        check_refused(recipe, counts["completions_dropped"].get(REFUSED, 0), counts["sampled"])
        check_judged(recipe, verdicts_of(run_dir), num_completions, is_whole=True)
        counts |= {"judge": report_of(counted_by_judge(files)), **sampling_counts(files)}
        with whole(counts_file) as unfinished:
            unfinished.write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")
        print(f"kept {counts['kept']} pairs of {counts['prompts']} prompts; dropped: {counts['dropped'] or 'none'}")
        _check_kept(recipe, counts)
    processes.wait_for_everyone()


def _check_kept(recipe: Recipe, counts: Mapping[str, Any]) -> None:
    """Raises RunStopped if there is no pair: nothing can be learned of none."""
    if counts["kept"]:
        return
    most, *_ = sorted(counts["dropped"], key=counts["dropped"].get, reverse=True)
    reasons = ", ".join(f"{reason}: {number}" for reason, number in counts["dropped"].items())
    raise RunStopped(
        f"{recipe.source}: preferences: no pair is kept of {counts['prompts']} prompts ({reasons}); {MENDS[most]}"
    )


def _judge(
    recipe: Recipe, run_dir: Path, num_completions: int, tokenizer, verdicts: Counter[str], asks_again: bool
) -> Judge:
    """Rows of completions/, scored by the recipe's judge against the rubric of `preferences`."""
    judge = ai_judge_of(recipe, run_dir, asks_again)
    rubric = load_rubric(recipe.path(recipe.preferences.rubric))
    thinking = thinking_after(tokenizer, recipe.thinking)

    def scored_rows(rows, completions_PG) -> tuple[list[dict[str, Any]], dict[str, float]]:
        before = judge.tally()
        answered_PG = [[c for c in group if c.refused is None and not c.truncated] for group in completions_PG]
        prompts = [row["prompt"] for row in rows]
        texts_PG = [[c.text for c in group] for group in answered_PG]
        scores_PG = judge.scores(rubric, prompts, texts_PG, thinking, only_to_compare=True)
        scored = []
        for row, group, scores in zip(rows, completions_PG, scores_PG, strict=True):
            given = iter(scores or ())
            for sample, completion in enumerate(group):
                why = REFUSED if completion.refused is not None else TRUNCATED if completion.truncated else None
                score = next(given, None) if why is None else None
                scored.append(
                    {
                        **row,
                        "id": f"{row['id']}-{sample}",
                        "completion": completion.text,
                        "num_tokens": completion.num_tokens,
                        "truncated": completion.truncated,
                        "refused": completion.refused,
                        "score": None if score is None else round(score, DIGITS),
                        "dropped_for": why
                        or (None if score is not None else NOT_ASKED if scores is None else NOT_SCORED),
                    }
                )
        verdicts.update(verdicts_in(row["dropped_for"] for row in scored))
        check_judged(recipe, verdicts, num_completions, judge=judge)
        return scored, {name: number - before[name] for name, number in judge.tally().items()}

    return scored_rows


def schema_of(columns: pyarrow.Schema) -> pyarrow.Schema:
    """The schema of completions/: the data's columns and ours."""
    ours = {"id", "prompt", *OF_ANSWER, *OF_PAIR, *PROVENANCE}
    theirs = [(field.name, field.type) for field in columns if field.name not in ours]
    return pyarrow.schema([("id", pyarrow.string()), ("prompt", MESSAGES), *theirs, *OF_ANSWER.items()])


def keep_pairs(
    run_dir: Path, files: Sequence[Path], section: Preferences, seed: int, provenance: Mapping[str, str | None]
) -> dict[str, Any]:
    """Writes kept/ from the scored shards, and gives the counts; one shard is in memory at a time.

    prompts, kept (pairs), kept_share, dropped             prompts without a pair, by the reason
    sampled, completions_dropped, tokens                   completions, those without a score by the reason
    chosen_tokens, rejected_tokens, longer_is_chosen       of the kept pairs: means, and the share, equals left out
    length_correlation   of score and tokens among the answers to one prompt (Pearson's, of the differences from the
                         prompt's means): how much the judge favours length; None where nothing varies
    """
    chosen_of, dropped = _pairs_of(files, section, seed)
    part = run_dir / f".{KEPT}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    of_completions: Counter[str] = Counter()
    lengths, correlation = _Lengths(), _Correlation()
    num_prompts = num_sampled = num_tokens = num_pairs = 0
    for file in files:
        schema, kept = pyarrow.parquet.read_schema(file), []
        for group, rows in enumerate(_groups_of(file)):
            num_prompts += 1
            num_sampled += len(rows)
            num_tokens += sum(row["num_tokens"] for row in rows)
            of_completions.update(row["dropped_for"] for row in rows if row["dropped_for"])
            correlation.add(rows)
            if (pair := chosen_of.get((file, group))) is not None:
                kept.append({**_pair_row(rows[pair.chosen], rows[pair.rejected]), **provenance})
                lengths.add(kept[-1]["chosen_tokens"], kept[-1]["rejected_tokens"])
        if kept:
            write_rows(kept, _schema_of_kept(schema), part / file.name)
        num_pairs += len(kept)
    shutil.rmtree(run_dir / KEPT, ignore_errors=True)
    part.replace(run_dir / KEPT)
    return {
        "prompts": num_prompts,
        "kept": num_pairs,
        "kept_share": num_pairs / max(1, num_prompts),
        "dropped": dict(dropped.most_common()),
        "sampled": num_sampled,
        "completions_dropped": dict(of_completions.most_common()),
        "tokens": num_tokens,
        **lengths.report(),
        "length_correlation": correlation.value,
    }


def pair_of(rows: Sequence[Mapping[str, Any]], section: Preferences, seed: int) -> tuple[int, int] | str:
    """Positions of the better and the worse answer among those to one prompt, or the reason why there is no pair.

    Of equal scores the first drawn counts, by the seed and the prompt's number. A rejected answer is worse by more than
    min_margin, and within max_length_ratio of the chosen one.
    """
    scored = [index for index, row in enumerate(rows) if row["dropped_for"] is None]
    if len(scored) < 2:
        return ALIKE if sum(row["dropped_for"] == NOT_ASKED for row in rows) > 1 else TOO_FEW
    random.Random(f"{seed}/{number_of(rows[0])}").shuffle(scored)
    best = max(scored, key=lambda index: rows[index]["score"])
    worse = [index for index in scored if _margin(rows[best], rows[index]) > section.min_margin]
    if not worse:
        return CLOSE
    alike = [index for index in worse if _are_alike(rows[best], rows[index], section.max_length_ratio)]
    if not alike:
        return UNLIKE
    return best, alike[0] if section.rejected == "random" else min(alike, key=lambda index: rows[index]["score"])


def _margin(better: Mapping[str, Any], worse: Mapping[str, Any]) -> float:
    return round(better["score"] - worse["score"], DIGITS)


def _are_alike(row: Mapping[str, Any], other: Mapping[str, Any], max_ratio: float | None) -> bool:
    shorter, longer = sorted((row["num_tokens"], other["num_tokens"]))
    return max_ratio is None or longer <= max_ratio * shorter


def _pairs_of(
    files: Sequence[Path], section: Preferences, seed: int
) -> tuple[dict[tuple[Path, int], Pair], Counter[str]]:
    """(file, number of the prompt in it) -> its pair, of the prompts that have one; and why the others have none."""
    pairs: dict[tuple[Path, int], Pair] = {}
    dropped: Counter[str] = Counter()
    for file in files:
        for group, rows in enumerate(_groups_of(file)):
            found = pair_of(rows, section, seed)
            if isinstance(found, str):
                dropped[found] += 1
                continue
            chosen, rejected = found
            longer = int(np.sign(rows[chosen]["num_tokens"] - rows[rejected]["num_tokens"]))
            pairs[file, group] = Pair(group, chosen, rejected, longer)
    if section.balance_lengths:
        surplus = _surplus([(key, pair.longer) for key, pair in pairs.items()], seed)
        dropped[UNBALANCED] += len(surplus)
        pairs = {key: pair for key, pair in pairs.items() if key not in surplus}
    if section.max_pairs is not None:
        drawn = _drawn([(key, pair.longer) for key, pair in pairs.items()], section, seed)
        dropped[BEYOND] += len(pairs) - len(drawn)
        pairs = {key: pair for key, pair in pairs.items() if key in drawn}
    return pairs, +dropped


def _surplus(longer: Sequence[tuple[Any, int]], seed: int) -> set:
    """Keys, drawn by the seed, without which the chosen answer is the longer one as often as the shorter one."""
    sides = {sign: [key for key, of_pair in longer if of_pair == sign] for sign in (1, -1)}
    excess = len(sides[1]) - len(sides[-1])
    larger = sides[1] if excess > 0 else sides[-1]
    return set(random.Random(f"lengths/{seed}").sample(larger, abs(excess)))


def _drawn(longer: Sequence[tuple[Any, int]], section: Preferences, seed: int) -> set:
    """At most max_pairs keys, drawn from all by the seed; lengths that are balanced stay so, if with one pair less."""
    rng = random.Random(f"pairs/{seed}")
    sides = {sign: [key for key, of_pair in longer if of_pair == sign] for sign in (1, -1, 0)}
    if section.balance_lengths:
        rng.shuffle(sides[1])
        together = [*zip(sides[1], sides[-1], strict=True), *((key,) for key in sides[0])]
    else:
        together = [(key,) for key, _ in longer]
    rng.shuffle(together)
    drawn: set = set()
    for keys in together:
        if len(drawn) + len(keys) <= section.max_pairs:
            drawn.update(keys)
    return drawn


def _groups_of(file: Path) -> Iterator[list[dict[str, Any]]]:
    yield from (rows for _, rows in groups(pyarrow.parquet.read_table(file).to_pylist()))


def _pair_row(chosen: Mapping[str, Any], rejected: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **{name: value for name, value in chosen.items() if name not in OF_ANSWER},
        "id": number_of(chosen),
        "chosen": [{"role": "assistant", "content": chosen["completion"]}],
        "rejected": [{"role": "assistant", "content": rejected["completion"]}],
        "chosen_score": chosen["score"],
        "rejected_score": rejected["score"],
        "margin": _margin(chosen, rejected),
        "chosen_tokens": chosen["num_tokens"],
        "rejected_tokens": rejected["num_tokens"],
    }


def _schema_of_kept(schema: pyarrow.Schema) -> pyarrow.Schema:
    theirs = [field for field in schema.remove_metadata() if field.name not in OF_ANSWER]
    return pyarrow.schema([*theirs, *OF_PAIR.items(), *((name, pyarrow.string()) for name in PROVENANCE)])


class _Lengths:
    """Tokens of the kept pairs."""

    def __init__(self):
        self._chosen = self._rejected = self._pairs = self._longer = self._unequal = 0

    def add(self, chosen: int, rejected: int) -> None:
        self._pairs += 1
        self._chosen, self._rejected = self._chosen + chosen, self._rejected + rejected
        self._longer, self._unequal = self._longer + (chosen > rejected), self._unequal + (chosen != rejected)

    def report(self) -> dict[str, float | None]:
        return {
            "chosen_tokens": self._chosen / self._pairs if self._pairs else None,
            "rejected_tokens": self._rejected / self._pairs if self._pairs else None,
            "longer_is_chosen": self._longer / self._unequal if self._unequal else None,
        }


class _Correlation:
    """Of score and tokens within the answers to one prompt."""

    def __init__(self):
        self._sums = np.zeros(3)  # of the squares of scores, of tokens, and of their products; less the means
        self._scale = np.zeros(2)  # of the squares of scores and of tokens as they are

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        scored = [row for row in rows if row["dropped_for"] is None]
        values = np.array([(row["score"], row["num_tokens"]) for row in scored], dtype=float)
        if len(values) > 1:
            score, tokens = (values - values.mean(axis=0)).T
            self._sums += (score @ score, tokens @ tokens, score @ tokens)
            self._scale += (values**2).sum(axis=0)

    @property
    def value(self) -> float | None:
        *squares, products = self._sums
        if np.any(squares <= NEGLIGIBLE * self._scale):
            return None
        return float(products / np.sqrt(np.prod(squares)))
