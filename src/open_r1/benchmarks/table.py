"""What can be named in `evaluate.benchmarks`: the LightEval task behind each name, and how its answers are sampled.

A line here is all that a new benchmark needs. Imports neither torch nor LightEval: a recipe is checked against it.
"""

from dataclasses import dataclass

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


# DeepSeek-R1's README (4. Evaluation Results): "the maximum generation length is set to 32,768 tokens […] a temperature
# of 0.6, a top-p value of 0.95, and generate 64 responses per query". 64 is for tests as small as AIME (30 problems);
# on larger ones fewer samples are as sure: 4 on MATH-500 and 8 on GPQA, with which open-r1 met DeepSeek's scores.
R1_SAMPLING = (
    "temperature, top-p, tokens: DeepSeek-R1 README, section 4; samples: as open-r1 reproduced the published scores"
)

BENCHMARKS: dict[str, Benchmark] = {
    "tiny_sums": Benchmark(
        task="tiny_sums",
        samples=1,
        temperature=1.0,
        top_p=1.0,
        max_new_tokens=80,
        source="ours: sums of seven one-digit numbers, held out; the tiny models are trained at this sampling",
        procedural=Procedural(
            family="basic_arithmetic",
            split="test",
            num_problems=1000,
            seed=0,
            parameters={"min_terms": 7, "max_terms": 7, "min_digits": 1, "max_digits": 1},
        ),
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
    "math_500": Benchmark(
        task="math_500", samples=4, temperature=0.6, top_p=0.95, max_new_tokens=32768, source=R1_SAMPLING
    ),
    "aime24": Benchmark(
        task="aime24", samples=64, temperature=0.6, top_p=0.95, max_new_tokens=32768, source=R1_SAMPLING
    ),
    "aime25": Benchmark(
        task="aime25", samples=64, temperature=0.6, top_p=0.95, max_new_tokens=32768, source=R1_SAMPLING
    ),
    "gpqa_diamond": Benchmark(
        task="gpqa:diamond", samples=8, temperature=0.6, top_p=0.95, max_new_tokens=32768, source=R1_SAMPLING
    ),
    "gsm8k": Benchmark(
        task="gsm8k",
        samples=1,
        temperature=0.6,
        top_p=0.95,
        max_new_tokens=32768,
        source="sampling as above; R1 reports no GSM8K, and 1,319 problems need no repetition",
    ),
}
