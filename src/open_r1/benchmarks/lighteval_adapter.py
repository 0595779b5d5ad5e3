"""One model on one benchmark: LightEval's tasks, prompts and metrics around our own sampling.

The only module that imports LightEval, and meant for a process of its own. LightEval 0.13 generates through its own
backends badly for us: with temperature > 0 it stays greedy at one sample and crashes at several, and it reuses
answers cached under the model's path after the weights have changed. So the answers come from `generation`, and
LightEval reads the data, builds the prompts and reports the metric.
"""

import contextlib
import copy
import dataclasses
import logging
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from open_r1 import procedural
from open_r1.benchmarks import livecodebench
from open_r1.benchmarks.answers import boxed_answer, normal_form
from open_r1.benchmarks.copies import write_copy
from open_r1.benchmarks.table import Benchmark
from open_r1.generation import Backend, Completion, Conversation, Sampling
from open_r1.generation.backends import thinking_after
from open_r1.generation.progress import Watch
from open_r1.generation.shards import Journal
from open_r1.procedural.explanations import explained
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards import accuracy_reward, binary_code_reward
from open_r1.rewards.completion import after_thinking
from open_r1.shares import Share

# LightEval's registry imports every task there is. Offline, tiny_benchmarks and mt_bench fail to download, mix_eval and
# mt_bench call an argument that huggingface_hub 2 dropped, and the if* tasks try to fetch nltk data at import.
# TODO: drop when the registry imports only the task that was asked for (LightEval > 0.13).
for _task in ("tiny_benchmarks", "mt_bench.main", "mix_eval.main", "ifeval.main", "ifbench.main"):
    sys.modules.setdefault(f"lighteval.tasks.tasks.{_task}", types.ModuleType(_task))
_autograd = torch.is_grad_enabled()

from lighteval.logging.evaluation_tracker import EvaluationTracker  # noqa: E402
from lighteval.metrics.dynamic_metrics import MultilingualExtractiveMatchMetric  # noqa: E402
from lighteval.metrics.metrics_sample import SampleLevelComputation, SamplingMetric  # noqa: E402
from lighteval.metrics.utils.extractive_match_utils import (  # noqa: E402
    extract_target_from_pred,
    get_extraction_regexes,
)
from lighteval.metrics.utils.metric_utils import SampleLevelMetric  # noqa: E402
from lighteval.models.abstract_model import LightevalModel, ModelConfig  # noqa: E402
from lighteval.models.model_output import ModelResponse  # noqa: E402
from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters  # noqa: E402
from lighteval.tasks.lighteval_task import LightevalTaskConfig  # noqa: E402
from lighteval.tasks.registry import Registry  # noqa: E402
from lighteval.tasks.requests import Doc, SamplingMethod  # noqa: E402
from lighteval.tasks.tasks.lcb.main import prepare_prompt  # noqa: E402

torch.set_grad_enabled(_autograd)  # LightEval's own backend switches autograd off when it is imported
logging.getLogger("lighteval").setLevel(logging.ERROR)  # its warnings are about few-shot splits that are never used

PASS_AT_1 = "pass@1"
logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The verdict on a completion, None if nobody can say; and its answer as it votes for maj@k, None without one."""

    verdict: float | None
    answer: str | None = None


Judge = Callable[[Doc, Sequence[str]], list[Judgement]]  # what was asked, and the texts of its completions


@dataclasses.dataclass(frozen=True)
class ScoredProblem:
    """A problem as it was asked, its gold answer, and its N completions with their verdicts (None: no verdict)."""

    prompt: str
    gold: str
    completions: list[Completion]
    scores: list[float | None]
    answers: list[str | None]
    """What each completion answered, in normal form; None where nothing was found, or where answers are programs."""


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """The scored problems in the order in which they were asked, and the metrics as LightEval reports them."""

    problems: list[ScoredProblem]
    metrics: dict[str, float]
    max_new_tokens: int
    """The limit of a completion: the benchmark's, or what the model's positions leave of it."""


def run_benchmark(
    backend: Backend,
    name: str,
    benchmark: Benchmark,
    problems_dir: Path,
    journal_file: Path,
    batch_size: int,
    seed: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    max_positions: int | None = None,
    rows: Sequence[dict[str, Any]] | None = None,
    thinking: Thinking = Thinking(),
    num_problems: int | None = None,
    description: str = "evaluating",
    part: Share | None = None,
) -> BenchmarkResult | None:
    """What the backend answers to a benchmark, with verdicts, and LightEval's metrics.

    `tokenizer` is the model's where there is one: its template says whether the prompt opens the thinking, and with
    `max_positions`, tokens of prompt and completion together, which completions went past the last of them: these are
    truncated. `rows` are asked in place of the task's data set. `num_problems` takes the first so many in LightEval's
    order, which is a shuffle with a seed of its own. Problems that do not come from the Hub are written under
    `problems_dir`. What is sampled is written to `journal_file` as soon as it ends, and what an earlier attempt left
    there is not sampled again; whoever has written the answers down removes it. Of a `part` nothing but the journal is
    left, and there is no result: which answers it holds depends on the problems alone. Raises RecipeError if the data
    cannot be had.
    """
    sampling = Sampling(
        temperature=benchmark.temperature,
        top_p=benchmark.top_p,
        max_new_tokens=benchmark.max_new_tokens,
        num_samples=benchmark.samples,
        batch_size=batch_size,
        seed=seed,
    )
    thinking = thinking_after(tokenizer, thinking)
    config = task_config(name, benchmark, problems_dir, thinking, rows)
    answering = OpenR1LightevalModel(backend, tokenizer, sampling, max_positions, journal_file, description, part)
    table = types.ModuleType("open_r1_tasks")  # what LightEval calls a custom task file
    table.TASKS_TABLE = [config]
    tracker = EvaluationTracker(output_dir=str(problems_dir), save_details=False)  # writes only when told to
    try:
        pipeline = Pipeline(
            tasks=config.full_name,
            pipeline_parameters=PipelineParameters(
                launcher_type=ParallelismManager.NONE,
                custom_tasks_directory=table,
                max_samples=num_problems,
                bootstrap_iters=0,
                remove_reasoning_tags=False,  # it misses a thinking that the prompt opened, or that never ends
            ),
            evaluation_tracker=tracker,
            model=answering,
        )
    except OSError as error:  # no network, or a gated dataset without a token
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"evaluate.benchmarks: {name}: {config.hf_repo} cannot be loaded ({reason}); it comes from the Hub, "
            f"and where it is gated it needs `hf auth login`; evaluate.copies.{name} may name a local file instead"
        ) from error
    try:
        pipeline.evaluate()
    except _PartIsSampled:
        return None
    # The registry copies its configs, so the metric that has the verdicts is the pipeline's, not config's.
    judgements = pipeline.tasks_dict[config.full_name].metrics[0].sample_level_fn.judgements
    problems = [
        _scored(doc, answering.completions[doc.id], judgements[doc.id])
        for doc in pipeline.documents_dict[config.full_name]
    ]
    metrics = tracker.metrics_logger.metric_aggregated[config.full_name]
    return BenchmarkResult(
        problems, {metric: float(value) for metric, value in metrics.items()}, answering.sampling.max_new_tokens
    )


def _scored(doc: Doc, completions: list[Completion], judgements: list[Judgement]) -> ScoredProblem:
    of_answered = iter(judgements)
    by_completion = [Judgement(None) if completion.refused else next(of_answered) for completion in completions]
    return ScoredProblem(
        doc.query,
        doc.get_golds()[0],
        completions,
        scores=[judgement.verdict for judgement in by_completion],
        answers=[judgement.answer for judgement in by_completion],
    )


def task_config(
    name: str,
    benchmark: Benchmark,
    problems_dir: Path,
    thinking: Thinking = Thinking(),
    rows: Sequence[dict[str, Any]] | None = None,
) -> LightevalTaskConfig:
    """The LightEval task of a benchmark, with our number of samples and tokens, and pass@1 over the samples.

    A standard task keeps its data, prompt and gold, and each of its completions is judged by its own metric; with
    `rows` they take the place of its data. Its stop sequences go: they were made for base models, and `Question:` would
    cut a chain of thought short.
    """
    task_name = f"open_r1_{name}"  # LightEval's own names are taken, and a `:` in a name means an average over a family
    if benchmark.procedural is not None:
        has_tests = "verification_info" in procedural.FAMILIES[benchmark.procedural.family].COLUMNS
        by_gold = _judge_by_tests(thinking) if has_tests else _judge_by_gold(thinking)
        judge = _judge_by_explanation if benchmark.judge == "explanation" else by_gold
        return LightevalTaskConfig(
            name=task_name,
            prompt_function=_doc,
            metrics=[_pass_at_1(judge, benchmark)],
            generation_size=benchmark.max_new_tokens,
            **_read_from(write_copy(_procedural_rows(benchmark), problems_dir / name)),
        )
    theirs = copy.deepcopy(Registry.load_all_task_configs()[benchmark.task])
    programs = benchmark.judge == "livecodebench"
    judge = _judge_by_contest(thinking) if programs else _judge_by_metric(theirs.metrics[0], thinking)
    return dataclasses.replace(
        theirs,
        name=task_name,
        prompt_function=_contest_doc if programs else theirs.prompt_function,
        metrics=[_pass_at_1(judge, benchmark)],
        generation_size=benchmark.max_new_tokens,
        stop_sequence=[],
        **(_read_from(write_copy(rows, problems_dir / name)) if rows is not None else {}),
    )


def _read_from(directory: Path) -> dict[str, Any]:
    """What of a task's config says that its data is in a directory that holds test.jsonl."""
    splits = {"hf_avail_splits": ["test"], "evaluation_splits": ["test"]}
    return {"hf_repo": str(directory), "hf_subset": "default", "hf_revision": None, **splits}


class OpenR1LightevalModel(LightevalModel):
    """A model of LightEval's that samples with a backend and keeps what it sampled in `completions`, by doc id."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: PreTrainedTokenizerBase | None,
        sampling: Sampling,
        max_positions: int | None,
        journal_file: Path,
        description: str,
        part: Share | None = None,
    ):
        self.backend = backend
        self.sampling = sampling
        self.max_positions = max_positions
        self.journal_file = journal_file
        self.description = description
        self.part = part
        self.completions: dict[str, list[Completion]] = {}
        self.config = ModelConfig(model_name=description)
        self._tokenizer = tokenizer
        self._cache = _NoCache()

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """For each doc the texts of those completions that were not refused. The name is LightEval's, not the way."""
        conversations = [[{"role": "user", "content": doc.query}] for doc in docs]
        prompt_tokens = self._prompt_tokens(conversations)
        self.sampling = self._within_positions(min(prompt_tokens))
        sampled = [
            [self._cut(completion, num_tokens) for completion in completions]
            for num_tokens, completions in zip(prompt_tokens, self._sample(conversations), strict=True)
        ]
        self.completions.update(zip((doc.id for doc in docs), sampled, strict=True))
        return [
            ModelResponse(input=doc.query, text=[one.text for one in completions if not one.refused])
            for doc, completions in zip(docs, sampled, strict=True)
        ]

    def _sample(self, conversations: Sequence[Conversation]) -> list[list[Completion]]:
        """For each conversation its completions, in order; those in the journal are not sampled again.

        Raises _PartIsSampled when a part has its own: a block of the rows by length, as a backend batches them.
        """
        samples = range(self.sampling.num_samples)
        rows = [(index, sample) for index in range(len(conversations)) for sample in samples]
        if self.part is not None:
            rows = self.part.of(sorted(rows, key=lambda row: len(conversations[row[0]][0]["content"])))
        with Journal(self.journal_file) as journal:
            wanted = {row for row in rows if row not in journal.finished}
            watch = Watch(len(rows), self.description, done=len(rows) - len(wanted))
            if wanted:
                with contextlib.closing(self.backend.sample(conversations, self.sampling, wanted)) as sampled:
                    for row, completion in watch.watched(sampled):
                        journal.add(row, completion)
            watch.close()
            if self.part is not None:
                raise _PartIsSampled
            return [[journal.finished[index, sample] for sample in samples] for index in range(len(conversations))]

    def _prompt_tokens(self, conversations: Sequence[Conversation]) -> list[int]:
        """The length of each prompt; 0 where only a server knows."""
        if self._tokenizer is None:
            return [0] * len(conversations)
        render = self._tokenizer.apply_chat_template
        prompts = [render(conversation, tokenize=False, add_generation_prompt=True) for conversation in conversations]
        return list(map(len, self._tokenizer(prompts, add_special_tokens=False)["input_ids"]))

    def _within_positions(self, shortest_prompt: int) -> Sampling:
        """The sampling, its limit of tokens lowered to the positions that the shortest prompt leaves.

        What a model writes past its last position is noise, and costs as much as an answer.
        """
        room = (self.max_positions or 0) - shortest_prompt
        if not 0 < room < self.sampling.max_new_tokens:
            return self.sampling
        logger.warning(
            "%s: at most %d tokens, as the model has %d positions", self.description, room, self.max_positions
        )
        return dataclasses.replace(self.sampling, max_new_tokens=room)

    def _cut(self, completion: Completion, prompt_tokens: int) -> Completion:
        """The completion, truncated if it went past the model's last position."""
        if self.max_positions is None or prompt_tokens + completion.num_tokens <= self.max_positions:
            return completion
        return dataclasses.replace(completion, truncated=True)

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        raise NotImplementedError("only tasks that generate are in the table of benchmarks")

    loglikelihood_rolling = loglikelihood

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase | None:
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        return False

    @property
    def max_length(self) -> int | None:
        return self.max_positions


class _PartIsSampled(Exception):
    """Ends LightEval's run where answers are to be judged, and a share has only a part of them."""


class _NoCache:
    """LightEval's Pipeline tells every model's cache about the registry; ours has none to tell."""

    def _init_registry(self, registry: Registry) -> None:
        pass


class PassAt1(SamplingMetric, SampleLevelComputation):
    """The mean of a problem's verdicts, nan if it has none. Keeps what was judged in `judgements`, by doc id."""

    def __init__(self, judge: Judge, num_samples: int):
        super().__init__()
        self.judge = judge
        self.n = num_samples
        self.judgements: dict[str, list[Judgement]] = {}

    def num_samples(self) -> int:
        return self.n

    def compute(self, doc: Doc, model_response: ModelResponse, **_) -> float:
        judgements = self.judgements[doc.id] = self.judge(doc, model_response.text)
        judged = [judgement.verdict for judgement in judgements if judgement.verdict is not None]
        return float(np.mean(judged)) if judged else float("nan")


def _pass_at_1(judge: Judge, benchmark: Benchmark) -> SampleLevelMetric:
    return SampleLevelMetric(
        metric_name=PASS_AT_1,
        higher_is_better=True,
        category=SamplingMethod.GENERATIVE,
        sample_level_fn=PassAt1(judge, benchmark.samples),
        corpus_level_fn=np.nanmean,
    )


def _judge_by_gold(thinking: Thinking) -> Judge:
    """Verdicts of the accuracy reward on the raw texts: it looks behind the thinking by itself."""

    def judge(doc: Doc, texts: Sequence[str]) -> list[Judgement]:
        verdicts = accuracy_reward(_conversations(texts), solution=doc.get_golds() * len(texts), thinking=thinking)
        answers = [boxed_answer(text, thinking) for text in texts]
        return [Judgement(*one) for one in zip(verdicts, answers, strict=True)]

    return judge


def _judge_by_tests(thinking: Thinking) -> Judge:
    """Verdicts of the binary_code reward in the local sandbox; raises RecipeError at once if there is none here."""
    binary_code_reward([], verification_info=[])

    def judge(doc: Doc, texts: Sequence[str]) -> list[Judgement]:
        tests = [doc.specific["verification_info"]] * len(texts)
        return [
            Judgement(verdict)
            for verdict in binary_code_reward(_conversations(texts), verification_info=tests, thinking=thinking)
        ]

    return judge


def _judge_by_explanation(doc: Doc, texts: Sequence[str]) -> list[Judgement]:
    """Whether each text explains its sum, and nothing of what it answers."""
    return [Judgement(verdict) for verdict in explained(texts, [doc.specific["question"]] * len(texts))]


def _judge_by_contest(thinking: Thinking) -> Judge:
    """Verdicts of LiveCodeBench's tests in the local sandbox; raises RecipeError at once if there is none here."""
    sandbox = livecodebench.sandbox_of_benchmark()

    def judge(doc: Doc, texts: Sequence[str]) -> list[Judgement]:
        return [
            Judgement(verdict)
            for verdict in livecodebench.judge_answers(texts, doc.specific["tests"], thinking, sandbox)
        ]

    return judge


def _conversations(texts: Sequence[str]) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in texts]


def _judge_by_metric(metric: SampleLevelMetric, thinking: Thinking) -> Judge:
    """Verdicts of a task's own metric, on what follows the thinking of one text at a time.

    At one text, pass@k with k=1, avg@n and extractive match are the same number: right or wrong. Where the thinking
    never ends there is no answer, whatever formula it broke off at. A metric that breaks says nothing of the answer.
    """
    extraction = extraction_of(metric)

    def judge_one(doc: Doc, text: str) -> Judgement:
        final = after_thinking(text, thinking)
        if final is None:
            return Judgement(0.0)
        try:
            scores = metric.compute_sample(doc=doc, model_response=ModelResponse(text=[final]))
            return Judgement(float(scores[metric.metric_name]), extracted_answer(doc, final, extraction))
        except Exception as error:  # noqa: BLE001 - sympy raises whatever it likes on what nobody would write
            logger.warning("no verdict: %s: %s", type(error).__name__, str(error).partition("\n")[0])
            return Judgement(None)

    return lambda doc, texts: [judge_one(doc, text) for text in texts]


def extraction_of(metric: SampleLevelMetric) -> MultilingualExtractiveMatchMetric:
    """That part of a task's metric that finds the answer in a text, and compares it with the gold."""
    function = metric.sample_level_fn
    if isinstance(function, MultilingualExtractiveMatchMetric):
        return function
    return function.compute_score.__self__  # pass@k and avg@n hold on to the method alone


def extracted_answer(doc: Doc, text: str, extraction: MultilingualExtractiveMatchMetric) -> str | None:
    """The normal form of the answer that the metric compares with the gold; None if it finds none."""
    regexes = get_extraction_regexes(doc, extraction.pred_extraction_target, extraction.language)
    found = extract_target_from_pred(
        text.strip(), regexes, extraction.fallback_mode, extraction.extraction_mode, extraction.timeout_seconds
    )
    return normal_form(found[-1] if isinstance(found[-1], str) else str(found[-1])) if found else None


def _doc(row: dict, task_name: str) -> Doc:
    return Doc(row["question"], [row["answer"]], gold_index=0, task_name=task_name, specific=row)


def _contest_doc(row: dict, task_name: str) -> Doc:
    """LightEval's prompt, and the tests as we read them: theirs are unpickled, which can run anything."""
    tests = livecodebench.read_tests(row)
    problem = str(row.get("question_id") or "")
    return Doc(prepare_prompt(row), [problem], gold_index=0, task_name=task_name, specific={"tests": tests})


def _procedural_rows(benchmark: Benchmark) -> list[dict[str, Any]]:
    return [
        {
            "question": row["prompt"][-1]["content"],
            "answer": row["solution"],
            "verification_info": row.get("verification_info"),
        }
        for row in procedural.rows(benchmark.procedural)
    ]
