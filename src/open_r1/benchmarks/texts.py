"""The texts of the benchmarks' problems: what training data must not contain. Neither torch nor LightEval.

The data sets are those of LightEval's tasks. None is pinned to a commit: LightEval pins none either, and what a
benchmark's newest revision asks is what has to be kept out.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow
import pyarrow.parquet

from open_r1 import procedural
from open_r1.benchmarks.copies import FORMATS, sha256_of
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.recipe import RecipeError
from open_r1.wording import closest


@dataclass(frozen=True)
class HubProblems:
    """Where a benchmark's problems lie on the Hub."""

    dataset: str
    split: str
    column: str
    """Of the problem's text, without the answer."""
    subset: str | None = None
    revision: str | None = None


HUB_PROBLEMS: dict[str, HubProblems] = {
    "math_500": HubProblems("HuggingFaceH4/MATH-500", "test", "problem"),
    "aime24": HubProblems("HuggingFaceH4/aime_2024", "train", "problem"),
    "aime25": HubProblems("yentinglin/aime_2025", "train", "problem"),
    "gpqa_diamond": HubProblems("Idavidrein/gpqa", "train", "Question", subset="gpqa_diamond"),
    "gsm8k": HubProblems("openai/gsm8k", "test", "question", subset="main"),
    "livecodebench": HubProblems("lighteval/code_generation_lite", "test", "question_content", subset="v4_v5"),
    "livecodebench_v5": HubProblems("lighteval/code_generation_lite", "test", "question_content", subset="v5"),
    "livecodebench_v6": HubProblems("lighteval/code_generation_lite", "test", "question_content", subset="v6"),
}


@dataclass(frozen=True)
class BenchmarkTexts:
    """The problems' texts in the order of their data set, and where they come from, for a report."""

    texts: list[str]
    origin: str


def benchmark_texts(names: Iterable[str], copies: Mapping[str, Path] | None = None) -> dict[str, BenchmarkTexts]:
    """Benchmark -> its texts, for each of `names`: from its local copy if there is one, else from the Hub.

    A copy is a .jsonl, .json or .parquet file with the text's column of the Hub's data set. Procedural problems are
    made here. Raises RecipeError if a name is unknown, or the texts of one cannot be had: none is ever left out.
    """
    names, copies = list(names), copies or {}
    for name in (*names, *copies):
        if name not in BENCHMARKS:
            raise RecipeError(f"{name}: unknown benchmark (known: {', '.join(BENCHMARKS)}){closest(name, BENCHMARKS)}")
    for name in copies:
        if name not in names:
            raise RecipeError(f"{name}: a copy of it is given, and it is not among the benchmarks; add it, or drop it")
        if BENCHMARKS[name].procedural:
            raise RecipeError(f"{name}: its problems are made here, and need no copy; drop it")
    texts = {name: _texts_of(name, copies.get(name)) for name in names}
    for name, problems in texts.items():
        if not problems.texts:
            raise RecipeError(f"{name}: {problems.origin} has no problems; give a copy that has them")
    return texts


def _texts_of(name: str, copy: Path | None) -> BenchmarkTexts:
    source = BENCHMARKS[name].procedural
    if source:
        rows = procedural.rows(source)
        return BenchmarkTexts([row["prompt"][-1]["content"] for row in rows], f"made here: {source.family}")
    if name not in HUB_PROBLEMS:
        raise RecipeError(f"{name}: not known where its problems lie; add it to HUB_PROBLEMS in benchmarks/texts.py")
    return _from_copy(name, copy) if copy else _from_hub(name)


def _from_copy(name: str, file: Path) -> BenchmarkTexts:
    column = HUB_PROBLEMS[name].column
    if file.suffix not in FORMATS:
        raise RecipeError(f"{name}: {file} is no {', '.join(FORMATS)} file; write the problems into one")
    try:
        if file.suffix == ".parquet":  # this column alone: LiveCodeBench's tests are gigabytes
            texts = pyarrow.parquet.read_table(file, columns=[column])[column].to_pylist()
        else:
            written = file.read_text(encoding="utf-8")
            lines = [line for line in written.split("\n") if line.strip()]
            rows = json.loads(written) if file.suffix == ".json" else [json.loads(line) for line in lines]
            texts = [row[column] for row in rows]
    except (KeyError, TypeError):
        raise RecipeError(f"{name}: {file} has rows without {column}; a copy needs this column") from None
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise RecipeError(f"{name}: {file} cannot be read ({_first_line(error)})") from None
    return BenchmarkTexts(_all_texts(name, str(file), texts), f"{file} (sha256 {sha256_of(file)})")


def _from_hub(name: str) -> BenchmarkTexts:
    import datasets

    hub = HUB_PROBLEMS[name]
    try:
        rows = datasets.load_dataset(hub.dataset, hub.subset, split=hub.split, revision=hub.revision)
        texts = rows.select_columns(hub.column)[hub.column]
    except Exception as error:  # the library raises whatever the Hub's client does
        raise RecipeError(
            f"{name}: {hub.dataset} cannot be loaded from the Hub ({_first_line(error)}); give a local copy, "
            f"--copy {name}=FILE (.jsonl, .json or .parquet, with the column {hub.column}), or name the benchmarks "
            "to look for with --benchmarks; a gated data set needs `hf auth login`"
        ) from error
    origin = "/".join(part for part in (hub.dataset, hub.subset, hub.split) if part)
    return BenchmarkTexts(_all_texts(name, origin, list(texts)), f"{origin} (Hub, revision {hub.revision or 'newest'})")


def _all_texts(name: str, origin: str, texts: list) -> list[str]:
    for row, text in enumerate(texts):
        if not isinstance(text, str) or not text.strip():
            raise RecipeError(f"{name}: {origin}: row {row} has no text ({text!r}); each row has to be a problem")
    return texts


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
