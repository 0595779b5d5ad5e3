"""README.md of a repository: what the data set is and how it was made, from what the run's record says.

Its head, which the Hub and `datasets` read, names the configs and their files. What is not known is said to be not
known; a license is named only if the user names one.
"""

import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pyarrow
import yaml

from open_r1.benchmarks.table import BENCHMARKS
from open_r1.curation.rows import MESSAGES
from open_r1.publishing.paths import Names, without_paths
from open_r1.recipe import Reward
from open_r1.report.commands import LAUNCH, run_command
from open_r1.report.reading import read_all
from open_r1.report.scores import highest_k, score_of

TRACES, PAIRS, EVALUATION = "traces", "pairs", "evaluation"
KINDS = {"preferences": PAIRS, "evaluate": EVALUATION}  # of steps; all others sample traces
MARKER = "<!-- open_r1.publishing: {} -->"  # by which a repository of ours is known when it is published to again
TAGS = {
    TRACES: ("open-r1", "reasoning", "synthetic"),
    PAIRS: ("open-r1", "preferences", "dpo", "synthetic"),
    EVALUATION: ("open-r1", "evaluation"),
}
SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M", 10_000_000: "1M<n<10M"}
NONE = "–"
OF_ONE_MACHINE = ("--submitted", "--runs", "--resume")  # with a value each; where a run lay
SAMPLING = {  # key of a recipe's section -> how it is told
    "samples": "samples per prompt",
    "temperature": "temperature",
    "top_p": "top-p",
    "max_completion_length": "tokens per completion, at most",
}
FILTERS = {  # key of `keep` -> what a completion that is kept is like
    "min_reward": "every reward gives at least {}",
    "min_tokens": "it has at least {} tokens",
    "max_tokens": "it has at most {} tokens",
    "language": "it is written in `{}`",
    "min_language_share": "at least {} of its words are in that language",
    "max_paragraph_words": "no paragraph has more than {} words",
    "code_in_thinking": "no fenced code block stands in the thinking",
    "max_similarity": "at most {} of its word 5-grams (Jaccard) are those of one kept for the same prompt before",
    "max_per_prompt": "no more than {} of its prompt",
    "max_traces": "no more than {} in all",
}
PROVENANCE = {
    "teacher": "model that answered",
    "teacher_sha256": "hash of its weights, if they lay where the run was",
    "sampled_with": "how it was sampled, as JSON",
    "verified_by": "rewards or judge, filters, commit and versions of packages, as JSON",
}
MEANINGS = {  # kind -> column -> what it holds
    TRACES: {
        "id": "number of the prompt; in kept with the number of the sample behind it",
        "prompt": "what was answered",
        "completion": "the answer, thinking included, as one message of the assistant",
        "num_tokens": "tokens of the completion",
        "pass_rate": "share of the prompt's judged completions that every reward verified; null: none was judged",
        "num_judged": "completions of the prompt that got a verdict",
        "mean_tokens": "mean tokens of its completions",
        **PROVENANCE,
    },
    PAIRS: {
        "id": "number of the prompt",
        "prompt": "what was answered",
        "chosen": "the better answer, as one message of the assistant",
        "rejected": "the worse one",
        "chosen_score": "the judge's score of the better answer, a mean over its judgements",
        "rejected_score": "of the worse one",
        "margin": "by how much they differ",
        "chosen_tokens": "tokens of the better answer",
        "rejected_tokens": "of the worse one",
        **PROVENANCE,
    },
    EVALUATION: {
        "prompt": "the whole text that was answered",
        "gold": "what is right",
        "completions": "the answers",
        "num_tokens": "tokens of each",
        "truncated": "whether it hit the limit of tokens",
        "refused": "the server's reason not to answer; null: it did",
        "scores": "verdict, 1 right, 0 wrong; null: none could be given",
        "answers": "what was taken for the answer; null: nothing was found",
    },
}


@dataclass(frozen=True)
class Config:
    """A config of the data set: its name, a pattern of its files, and what is in them."""

    name: str
    data_files: str
    num_rows: int
    schema: pyarrow.Schema | None


@dataclass(frozen=True)
class Facts:
    """All that a card is made of, without a path of this machine."""

    repo_id: str
    license_id: str | None
    record: Mapping[str, Any]
    stage: str | None
    """None if the run is no stage of a pipeline."""
    pipeline: Mapping[str, Any]
    """The pipeline's record; {} if there is none."""
    command: str
    configs: list[Config]
    counts: Mapping[str, Any]
    """Of a step that samples, else {}."""
    scores: Mapping[str, Any]
    """Of an evaluation, else {}."""
    decontamination: Mapping[str, Mapping[str, Any]]

    @property
    def recipe(self) -> Mapping[str, Any]:
        return self.record["recipe"]

    @property
    def kind(self) -> str:
        return KINDS.get(self.record["step"], TRACES)

    @property
    def title(self) -> str:
        traces = "Verified traces" if self.recipe.get("rewards") else "Traces"
        what = {EVALUATION: "Answers and scores", PAIRS: "Preference pairs"}.get(self.kind, traces)
        return f"{what} of {self.recipe_name}"

    @property
    def description(self) -> str:
        """As the recipe says it, as a sentence; empty if it says nothing."""
        text = " ".join(str(self.recipe.get("description") or "").split()).rstrip(".")
        return f"{text}." if text else ""

    @property
    def recipe_name(self) -> str:
        """The file that says what was run; of a stage its own file, as the pipeline names it, and the pipeline's."""
        file = self.record["recipe_file"]
        if self.stage is None:
            return file
        stages = self.pipeline["recipe"].get("stages") or []
        own = next((entry["recipe"] for entry in stages if entry["name"] == self.stage), file)
        return f"{own}, stage {self.stage} of {self.pipeline['recipe_file']}"

    @property
    def section(self) -> Mapping[str, Any]:
        """How prompts were answered."""
        return next(filter(None, map(self.recipe.get, ("distill", "generate", "preferences"))), {})

    @property
    def teacher(self) -> str:
        """Who answered, and at which revision."""
        name, revision = self.recipe["model"].get("name"), self.recipe["model"].get("revision")
        if self.recipe.get("distill"):
            name, revision = self.section["teacher"], self.section.get("teacher_revision")
        endpoint = self.section.get("endpoint")
        text = f"`{name}`" if name else f"`{endpoint['model']}`"
        return f"{text} at revision `{revision}`" if revision else text

    @property
    def served(self) -> str:
        """What the model ran in."""
        if endpoint := self.section.get("endpoint"):
            return f"a server that speaks OpenAI's protocol, there called `{endpoint['model']}`"
        if (self.recipe.get("hardware") or {}).get("vllm"):
            return "vLLM"
        return "transformers"


def render(facts: Facts) -> str:
    """The text of README.md."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"cell": cell, "percent": percent, "rounded": rounded}
    body = environment.get_template(f"{facts.kind}.md.jinja").render(
        facts=facts,
        record=facts.record,
        marker=MARKER.format(facts.kind),
        none=NONE,
        sampling=list(_sampling(facts)),
        filters=list(_filters(facts.recipe.get("keep") or {})),
        drops=_drops(facts),
        sources=[_source_text(source) for source in facts.recipe.get("data") or []],
        columns=_columns(facts),
        rewards=[_reward_row(reward) for reward in facts.recipe.get("rewards") or []],
        sandboxes=[
            f"{name} (isolation of tier {tier})" if tier else name
            for name, tier in (facts.record.get("sandboxes") or {}).items()
        ],
        inputs=list(_inputs(facts)),
        models=_models(facts) if facts.kind == EVALUATION else [],
        tasks=_tasks(facts.scores),
        copies=list(_copies(facts.scores)),
        scores=list(_score_rows(facts.scores)),
        refusals=list(_refusals(facts.scores)),
    )
    body = re.sub(r"\n{3,}", "\n\n", body)  # where a part of the template is left out
    head = yaml.safe_dump(_head(facts), sort_keys=False, allow_unicode=True)
    return f"---\n{head}---\n{body.strip()}\n"


def _head(facts: Facts) -> dict[str, Any]:
    configs = [
        {"config_name": config.name, "data_files": [{"split": "train", "path": config.data_files}]}
        for config in facts.configs
    ]
    configs[0]["default"] = True
    num_rows = max(config.num_rows for config in facts.configs)
    size = next((text for limit, text in SIZES.items() if num_rows < limit), "n>10M")
    return {
        **({"license": facts.license_id} if facts.license_id else {}),
        "pretty_name": facts.title,
        "task_categories": ["text-generation"],
        "size_categories": [size],
        "tags": list(TAGS[facts.kind]),
        "configs": configs,
    }


def cell(value: Any) -> str:
    """One line that stands in a table as it is; a dash for None."""
    if value is None:
        return NONE
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
    return re.sub(r"([\\|*<`\[\]])", r"\\\1", " ".join(text.split()))


def percent(share: float | None) -> str:
    """`12.3 %`, `< 0.1 %` for what would be shown as none; a dash for None."""
    if share is None:
        return NONE
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def rounded(number: float | None) -> str:
    """Three significant digits; a dash for None."""
    return NONE if number is None else f"{number:.3g}"


def command_of(run_dir: Path, names: Names) -> str:
    """The command that makes the run again in a checkout, with names where it names places of this machine.

    For a stage give the directory of its pipeline: it needs what earlier stages make.
    """
    run, _ = read_all(run_dir, [])
    command = run_command(run)
    if not command or not command.startswith(LAUNCH):  # another program started it
        command = f"{LAUNCH} {run.step} {shlex.quote(str(run.record['recipe_file']))}"
    words, skip = [], False
    for word in shlex.split(command):
        if skip or word in OF_ONE_MACHINE:
            skip = not skip
        elif not word.startswith(tuple(f"{flag}=" for flag in OF_ONE_MACHINE)):
            words.append(_shown_word(word, names))
    return shlex.join(words)


def _shown_word(word: str, names: Names) -> str:
    """A word of a command line; a path is one beneath the checkout, or to be filled in, and so is a server."""
    key, equals, value = word.partition("=")
    if key.endswith("base_url") and equals:
        return f"{key}=URL"
    shown = without_paths(word, names)
    if shown != word and equals and value.startswith("/"):
        value = without_paths(value, names)
        return f"{key}={'./' if value.startswith('recipes/') else '/path/to/'}{value}"
    return shown


def _sampling(facts: Facts) -> Iterator[tuple[str, Any]]:
    for key, text in SAMPLING.items():
        yield text, facts.section.get(key)
    yield "seed", facts.record.get("seed")
    if extra := (facts.section.get("endpoint") or {}).get("extra_body"):
        yield "further keys of each request", extra


def _filters(keep: Mapping[str, Any]) -> Iterator[str]:
    for key, value in keep.items():
        is_unused = key == "min_language_share" and keep.get("language") is None
        if value is None or is_unused or (key, value) == ("code_in_thinking", True):
            continue
        shown = percent(value) if key in ("min_language_share", "max_similarity") else value
        yield FILTERS.get(key, f"`{key}` is {{}}").format(shown)


def _drops(facts: Facts) -> list[tuple[str, int, float]]:
    """(reason, completions, share of all that were sampled); of pairs prompts, and their share."""
    num_in_all = max(1, facts.counts.get("prompts" if facts.kind == PAIRS else "sampled") or 0)
    return [(reason, number, number / num_in_all) for reason, number in (facts.counts.get("dropped") or {}).items()]


def _source_text(source: Mapping[str, Any]) -> str:
    """One line on an entry of `data`: where its rows are from, and all that was chosen of them."""
    given = {key: value for key, value in source.items() if value not in (None, {}, []) and (key, value) != _WHOLE}
    name, path, procedural = given.pop("name", None), given.pop("path", None), given.pop("procedural", None)
    if procedural:
        given.pop("split", None)
        family, *others = (f"{key} {cell(value)}" for key, value in procedural.items() if value not in (None, {}))
        return ", ".join([f"made by a program: {family}", *others, *_given(given)])
    if path:
        given.pop("split", None)
        return ", ".join([f"`{path}`, a file or folder that is not on the Hub", *_given(given)])
    revision = given.pop("revision", None)
    pinned = f"revision `{revision}`" if revision else "revision not pinned"
    return ", ".join([f"[{name}](https://huggingface.co/datasets/{name})", pinned, *_given(given)])


_WHOLE = ("fraction", 1.0)


def _given(values: Mapping[str, Any]) -> list[str]:
    return [f"{key} {cell(value)}" for key, value in values.items()]


def _columns(facts: Facts) -> list[tuple[str, str, str, str]]:
    """(column, configs, type, meaning) of every column, each once."""
    found: dict[tuple[str, str], list[str]] = {}
    for config in facts.configs:
        for column in config.schema or ():
            found.setdefault((column.name, _type_text(column.type)), []).append(config.name)
    everywhere = [config.name for config in facts.configs]
    return [
        (name, "all" if where == everywhere else ", ".join(where), kind, _meaning(facts.kind, name))
        for (name, kind), where in found.items()
    ]


def _type_text(kind: pyarrow.DataType) -> str:
    if pyarrow.types.is_list(kind) and kind.value_type == MESSAGES.value_type:
        return "conversation"
    return f"list of {kind.value_type}" if pyarrow.types.is_list(kind) else str(kind)


def _meaning(kind: str, column: str) -> str:
    if kind == TRACES and column.startswith("reward_"):
        return "value of that reward; null: no verdict, or none for this task"
    return MEANINGS[kind].get(column, "as in the data")


def _reward_row(reward: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """(reward, its parameters, the task that it is for)."""
    parameters = {key: value for key, value in reward.items() if key not in Reward.model_fields}
    return reward["name"], ", ".join(_given(parameters)) or None, reward.get("task")


def _inputs(facts: Facts) -> Iterator[str]:
    """A line on the weights that answered, if they lay here, and on every set of prompts that another run made."""
    sha256_of = _weights_sha256(facts)
    if sha256 := sha256_of.get("distill.teacher" if facts.recipe.get("distill") else "model.name"):
        yield f"sha256 of its weights: `{sha256}`"
    for parent in facts.record.get("parents") or []:
        if parent.get("data_sha256"):
            yield f"sha256 of the prompts from `{parent['name']}`: `{parent['data_sha256']}`"


def _models(facts: Facts) -> list[tuple[Any, ...]]:
    """(label, model, parameters, hash of its weights if they lay here) of every model that was scored."""
    sha256_of = _weights_sha256(facts)
    has_labels = bool(facts.recipe["evaluate"].get("models"))
    return [
        (label, score.get("model"), score.get("parameters"), sha256_of.get(label if has_labels else "model.name"))
        for label, score in facts.scores.items()
    ]


def _weights_sha256(facts: Facts) -> dict[str, str]:
    """model.name, label of a scored model, or distill.teacher -> hash of its weights, of those that lay here.

    A record lists parents in the order in which the recipe names its models, and several may lie in one folder.
    """
    recipe = facts.recipe
    names = {"model.name": recipe["model"].get("name"), **((recipe.get("evaluate") or {}).get("models") or {})}
    names["distill.teacher"] = (recipe.get("distill") or {}).get("teacher")
    unused = [parent for parent in facts.record.get("parents") or [] if parent.get("weights_sha256")]
    found = {}
    for key, name in names.items():
        parent = next((each for each in unused if name and each.get("run") == str(Path(name).parent)), None)
        if parent:
            unused.remove(parent)
            found[key] = parent["weights_sha256"]
    return found


def _copies(scores: Mapping[str, Any]) -> Iterator[str]:
    """A line on every benchmark that was read from a file."""
    for label, score in scores.items():
        for benchmark, entry in score["benchmarks"].items():
            if copy := entry.get("copy"):
                yield f"{benchmark}, for {cell(label)}: read from a copy, `{copy['path']}`, sha256 `{copy['sha256']}`"


def _score_rows(scores: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    for label, score in scores.items():
        for benchmark, entry in score["benchmarks"].items():
            shown = score_of(label, score.get("parameters"), entry)
            interval = shown.interval and f"{100 * shown.interval[0]:.1f} to {100 * shown.interval[1]:.1f}"
            yield (
                label,
                benchmark,
                "refused" if shown.refused else percent(shown.pass_at_1),
                interval,
                None if shown.refused else _at_k_text(highest_k(entry.get("pass@k"))),
                _at_k_text(shown.majority),
                entry.get("num_problems"),
                *(entry.get(key) for key in ("samples", "temperature", "top_p", "max_new_tokens")),
                percent(shown.truncated_share),
                entry.get("unjudged"),
            )


def _at_k_text(at_k: tuple[int, float] | None) -> str | None:
    return at_k and f"{percent(at_k[1])} (k = {at_k[0]})"


def _refusals(scores: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(label, benchmark, reason) of every score that is refused."""
    for label, score in scores.items():
        for benchmark, entry in score["benchmarks"].items():
            if entry.get("refused"):
                yield label, benchmark, entry["refused"]


def _tasks(scores: Mapping[str, Any]) -> dict[str, str]:
    """Benchmark -> the LightEval task behind it, or that its problems are made by a program."""
    names = dict.fromkeys(benchmark for score in scores.values() for benchmark in score["benchmarks"])
    known = {name: BENCHMARKS[name] for name in names if name in BENCHMARKS}
    return {
        name: "problems made by a program of open_r1" if benchmark.procedural else f"LightEval's `{benchmark.task}`"
        for name, benchmark in known.items()
    }
