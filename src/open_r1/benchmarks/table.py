"""What can be named in `evaluate.benchmarks`: the LightEval task behind each name, and how its answers are sampled.

A line here is all that a new benchmark needs. Imports neither torch nor LightEval: a recipe is checked against it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from open_r1.recipe import Procedural


@dataclass(frozen=True)
class Benchmark:
    """A LightEval task, and the sampling that a recipe's `evaluate` section may override."""

    task: str
    """Id in LightEval's registry; the name itself if the problems are `procedural`."""
    samples: int
    """Completions per problem; pass@1 is the mean over them."""
    temperature: float
    top_p: float
    max_new_tokens: int
    """Tokens a completion may have, its thinking included."""
    source: str
    """Where the numbers of this line come from."""
    procedural: Procedural | None = None
    """Problems that are made here instead of fetched from the Hub. Judged by the accuracy reward; those with tests by
    the binary_code reward, in the local sandbox."""
    columns: tuple[str, ...] = ()
    """Of the task's data set, those that its prompt and gold are made of: what a local copy has to have."""
    stand_ins: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Column that a copy may lack -> another that tells as much, and how its value is written: {} is its place."""
    judge: Literal["metric", "livecodebench", "explanation"] = "metric"
    """Who says whether an answer is right: the task's own metric, its tests in the local sandbox, or the measure of the
    tiny explanations."""


# DeepSeek-R1's README (4. Evaluation Results): "the maximum generation length is set to 32,768 tokens […] a temperature
# of 0.6, a top-p value of 0.95, and generate 64 responses per query". 64 is for tests as small as AIME (30 problems);
# on larger ones fewer samples are as sure: 4 on MATH-500, 8 on GPQA and 16 on LiveCodeBench, with which open-r1 met
# DeepSeek's scores.
R1_SAMPLING = (
    "temperature, top-p, tokens: DeepSeek-R1 README, section 4; samples: as open-r1 reproduced the published scores"
)


def _as_r1(task: str, samples: int, columns: tuple[str, ...], source: str = R1_SAMPLING, **more) -> Benchmark:
    """A task of LightEval's, sampled as DeepSeek-R1 was for its published scores."""
    return Benchmark(
        task, samples, temperature=0.6, top_p=0.95, max_new_tokens=32768, source=source, columns=columns, **more
    )


def _livecodebench(task: str, contests: str) -> Benchmark:
    columns = ("question_content", "public_test_cases", "private_test_cases", "metadata")
    return _as_r1(task, 16, columns, f"{R1_SAMPLING}; {contests}", judge="livecodebench")


HELD_OUT_SUMS = Procedural(
    family="basic_arithmetic",
    split="test",
    num_problems=1000,
    seed=0,
    parameters={"min_terms": 7, "max_terms": 7, "min_digits": 1, "max_digits": 1},
)
BENCHMARKS: dict[str, Benchmark] = {
    "tiny_sums": Benchmark(
        task="tiny_sums",
        samples=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=80,
        source="ours: sums of seven one-digit numbers, held out; the tiny models are trained at this sampling",
        procedural=HELD_OUT_SUMS,
    ),
    "tiny_chat": Benchmark(
        task="tiny_chat",
        samples=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=80,
        source="ours: replies to small talk, held out; the tiny models are trained at this sampling",
        procedural=Procedural(family="tiny_chat", split="test", num_problems=200, seed=0),
    ),
    "tiny_programs": Benchmark(
        task="tiny_programs",
        samples=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=72,
        source="ours: programs of four steps, held out; the tiny models are trained at this sampling",
        procedural=Procedural(family="tiny_programs", split="test", num_problems=500, seed=0),
    ),
    "tiny_explanations": Benchmark(
        task="tiny_explanations",
        samples=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=80,
        source="ours: the sums of tiny_sums; an answer counts if it names every intermediate sum in order",
        procedural=HELD_OUT_SUMS,
        judge="explanation",
    ),
    # MATH's own answers are what stands in the box of its worked solutions, so a copy may bring the answer alone.
    "math_500": _as_r1("math_500", 4, ("problem", "solution"), stand_ins={"solution": ("answer", r"$\boxed{{{}}}$")}),
    "aime24": _as_r1("aime24", 64, ("problem", "answer")),
    "aime25": _as_r1("aime25", 64, ("problem", "answer")),
    "gpqa_diamond": _as_r1(
        "gpqa:diamond",
        8,
        ("Question", "Correct Answer", "Incorrect Answer 1", "Incorrect Answer 2", "Incorrect Answer 3"),
    ),
    "gsm8k": _as_r1(
        "gsm8k",
        1,
        ("question", "answer"),
        "sampling as above; R1 reports no GSM8K, and 1,319 problems need no repetition",
    ),
    "livecodebench": _livecodebench("lcb:codegeneration", "LightEval's own choice of contests, releases 4 and 5"),
    "livecodebench_v5": _livecodebench("lcb:codegeneration_v5", "what release 5 added"),
    "livecodebench_v6": _livecodebench("lcb:codegeneration_v6", "what release 6 added"),
}
