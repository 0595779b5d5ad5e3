"""Throughput of `accuracy` against trl.rewards.accuracy_reward: the same batches, the same run, verdicts compared.

    python scripts/bench_rewards.py [--golds FILE.jsonl] [--seeds 3]

A batch is what GRPO hands over: 64 prompts x 16 completions. Of a prompt's completions a share that differs from prompt
to prompt is right, in a few spellings; the wrong ones fall into a few mistakes that the policy makes again and again.
Both sides begin with empty caches; the start of our workers, once a run, is told apart. The last line is one JSON
object.
"""

import argparse
import json
import random
import statistics
import time
from pathlib import Path

from open_r1.judging import close_pools, shared_pool
from open_r1.judging.mathematics.shortcut import without_algebra
from open_r1.recipe import Thinking
from open_r1.rewards import accuracy_reward
from open_r1.rewards.completion import answer_of
from open_r1.rewards.math import judge_completions

NUM_PROMPTS, NUM_GENERATIONS = 64, 16
TALK = "so we add both sides and see that the remaining part must be twice as large as what was given before"
NUM_WORDS = 120
SHARE_WITHOUT_ANSWER = 0.05
LATEX_GOLDS = [
    r"\frac{3}{8}", r"2\sqrt{13}", r"\left(3, \frac{\pi}{2}\right)", r"x^2+3x-6", r"\frac{11\sqrt{2}}{4}",
    r"(-\infty, 2)", r"\frac{\sqrt{3}}{3}", r"3+4i", r"12\pi", r"\frac{x+1}{x-2}", r"\sqrt{51}", r"(2,12)",
    r"-\frac{24}{25}", r"6r^2-4r-24", r"1 \pm \sqrt{19}", r"\begin{pmatrix} 1 \\ -7 \end{pmatrix}",
    r"y = 2x + 3", r"120^\circ", r"\frac{1}{2}", r"5r^5", r"\{1, 4\}", r"[-2, 7]", r"\log_{2} 5",
    r"\frac{20000}{\pi}", r"70\sqrt{2}", r"e^{2}-1", r"\frac{\pi}{6}", r"8n^2+4n+1", r"(1,-16,-4,43)",
    r"\frac{243}{625}", r"18+2\pi", r"\tan x",
]  # fmt: skip
BOMBS = [
    r"9^{9^{9^{9}}}", r"2^{3^{4^{5^{6}}}}", r"(10^{10})!", r"((100!)!)!", r"\binom{10^{9}}{5\cdot 10^{8}}",
    r"\frac{1}{" * 60 + "2" + "}" * 60, r"(x+1)^{10^{7}}", r"\sum_{k=1}^{10^{12}} k^{k}", "x" * 1_000_000,
    r"\sqrt{" * 1000 + "2" + "}" * 1000,
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--golds", type=Path, help="a .jsonl with a field `answer`, in place of the built-in golds")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    given = [json.loads(line)["answer"] for line in arguments.golds.open()] if arguments.golds else None

    started = time.monotonic()
    start_afresh()
    result: dict[str, object] = {"start_seconds": time.monotonic() - started}
    for kind in ("integer", "latex"):
        runs = [compare(kind, batch(kind, random.Random(seed), given), seed) for seed in range(arguments.seeds)]
        speedups = [run["trl_seconds"] / run["our_seconds"] for run in runs]
        result[f"{kind}_speedup"] = statistics.median(speedups)
        result[f"{kind}_speedup_range"] = [min(speedups), max(speedups)]
        result[kind] = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    result["bombs"] = bombs()
    print(json.dumps(rounded(result)))


def start_afresh() -> None:
    """Has all workers up, and nobody remembers a batch."""
    close_pools()
    without_algebra.cache_clear()
    shared_pool().start()


def batch(kind: str, rng: random.Random, given: list[str] | None) -> list[tuple[str, str, bool]]:
    """(gold, completion, whether it is right) for every completion of a batch."""
    rows = []
    for _ in range(NUM_PROMPTS):
        gold = str(rng.randint(2, 5000)) if kind == "integer" else rng.choice(given or LATEX_GOLDS)
        right = spellings(gold)
        mistakes = [mistake(gold, rng) for _ in range(rng.randint(2, 5))]
        share = rng.betavariate(1, 1)
        for _ in range(NUM_GENERATIONS):
            is_right = rng.random() < share
            answer = rng.choices(right, [8, *[1] * (len(right) - 1)])[0] if is_right else rng.choice(mistakes)
            text = " ".join(rng.choices(TALK.split(), k=NUM_WORDS))
            if rng.random() < SHARE_WITHOUT_ANSWER:
                rows.append((gold, f"<think>\n{text}\n</think>\n\nI do not know.", False))
            else:
                rows.append((gold, f"<think>\n{text}\n</think>\n\nThe answer is \\boxed{{{answer}}}.", is_right))
    return rows


def spellings(gold: str) -> list[str]:
    """Ways in which the gold is written by a policy, the usual one first."""
    return list(dict.fromkeys([gold, gold.replace(r"\frac", r"\dfrac"), gold.replace(", ", ","), f"{gold} "]))


def mistake(gold: str, rng: random.Random) -> str:
    """A wrong answer of the same kind: one of the gold's numbers is another."""
    digits = [index for index, sign in enumerate(gold) if sign.isdigit()]
    if not digits:
        return rf"{rng.randint(2, 9)}{gold}"
    index = rng.choice(digits)
    other = rng.choice([digit for digit in "3456789" if digit != gold[index]])
    return gold[:index] + other + gold[index + 1 :]


def compare(kind: str, rows: list[tuple[str, str, bool]], seed: int) -> dict[str, float]:
    """Seconds of both sides for one batch, and how often each is wrong; prints every disagreement, once."""
    from trl.rewards import accuracy_reward as trl_accuracy_reward

    golds = [gold for gold, _, _ in rows]
    completions = [[{"role": "assistant", "content": text}] for _, text, _ in rows]
    start_afresh()

    started = time.monotonic()
    ours = accuracy_reward(completions, golds)
    our_seconds = time.monotonic() - started
    started = time.monotonic()
    theirs = trl_accuracy_reward(completions, [f"${gold}$" for gold in golds])  # it cannot parse a bare gold
    trl_seconds = time.monotonic() - started

    told = set()
    for (gold, text, is_right), our, their in zip(rows, ours, theirs, strict=True):
        answer = answer_of(text).texts
        if our != their and (gold, answer) not in told:
            told.add((gold, answer))
            print(f"{kind} {seed}: gold {gold} answer {answer}: ours {our}, TRL's {their}, made as {float(is_right)}")
    return {
        "our_seconds": our_seconds,
        "trl_seconds": trl_seconds,
        "our_wrong": sum(our != float(is_right) for our, (_, _, is_right) in zip(ours, rows, strict=True)),
        "trl_wrong": sum(their != float(is_right) for their, (_, _, is_right) in zip(theirs, rows, strict=True)),
        "distinct_pairs": len({(gold, answer_of(text).texts) for gold, text, _ in rows}),
        **where_the_time_goes(rows),
    }


def where_the_time_goes(rows: list[tuple[str, str, bool]]) -> dict[str, float]:
    """Seconds of the parts of our side: reading the completions, exact short cuts, and the workers (wall clock)."""
    without_algebra.cache_clear()
    started = time.monotonic()
    answers = [answer_of(text) for _, text, _ in rows]
    read = time.monotonic()
    hard = [
        (gold, text)
        for (gold, _, _), answer in zip(rows, answers, strict=True)
        for text in answer.texts
        if without_algebra(gold, text) is None
    ]
    cut = time.monotonic()
    return {"reading_seconds": read - started, "shortcut_seconds": cut - read, "pairs_for_workers": len(set(hard))}


def bombs() -> dict[str, object]:
    """Ten hostile answers in a batch of 256: seconds, and whether the other 246 are judged as without them."""
    rng = random.Random(0)
    others = batch("latex", rng, None)[: 256 - len(BOMBS)]
    golds = [gold for gold, _, _ in others]
    texts = [text for _, text, _ in others]
    alone = accuracy_reward(texts, golds)
    start_afresh()
    places = sorted(rng.sample(range(256), len(BOMBS)))
    for place, bomb in zip(places, BOMBS, strict=True):
        golds.insert(place, rng.choice([r"\sqrt{2}", r"\frac{x}{2}", "12", "(1,2)"]))
        texts.insert(place, f"\\boxed{{{bomb}}}")
    started = time.monotonic()
    judged, counts = judge_completions(texts, golds, Thinking(), "both")
    seconds = time.monotonic() - started
    scores = [one.verdict.score for one in judged]
    for place, bomb in zip(places, BOMBS, strict=True):
        print(f"bomb {bomb[:30]!r} for {golds[place]!r}: {scores[place]}, {judged[place].verdict.reason}")
    return {
        "seconds": seconds,
        "budget_kills": counts["budget_kills"],
        "bombs_scored_0": sum(scores[place] == 0.0 for place in places),
        "others_unchanged": [score for place, score in enumerate(scores) if place not in places] == alone,
    }


def rounded(value):
    """Floats to four significant digits, in whatever they stand."""
    if isinstance(value, dict):
        return {key: rounded(one) for key, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
