"""One model on one benchmark: LightEval's tasks, prompts and metrics around our own sampling.

The only module that imports LightEval, and meant for a process of its own. LightEval 0.13 generates through its own
backends badly for us: with temperature > 0 it stays greedy at one sample and crashes at several, and it reuses
answers cached under the model's path after the weights have changed. So the answers come from `generation`, and
LightEval reads the data, builds the prompts and reports the metric.
"""

import copy
import dataclasses
import json
import logging
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from open_r1 import procedural
from open_r1.benchmarks.table import Benchmark
from open_r1.generation import Completion, Sampling, transformers_backend
from open_r1.recipe import RecipeError, Thinking
from open_r1.rewards import accuracy_reward, binary_code_reward
from open_r1.rewards.completion import resolved_thinking

# LightEval's registry imports every task there is. Offline, tiny_benchmarks and mt_bench fail to download, mix_eval and
# mt_bench call an argument that huggingface_hub 2 dropped, and the if* tasks try to fetch nltk data at import.
# TODO: drop when the registry imports only the task that was asked for (LightEval > 0.13).
for _task in ("tiny_benchmarks", "mt_bench.main", "mix_eval.main", "ifeval.main", "ifbench.main"):
    sys.modules.setdefault(f"lighteval.tasks.tasks.{_task}", types.ModuleType(_task))
_autograd = torch.is_grad_enabled()

from lighteval.logging.evaluation_tracker import EvaluationTracker  # noqa: E402
from lighteval.metrics.metrics_sample import SampleLevelComputation, SamplingMetric  # noqa: E402
from lighteval.metrics.utils.metric_utils import SampleLevelMetric  # noqa: E402
from lighteval.models.abstract_model import LightevalModel, ModelConfig  # noqa: E402
from lighteval.models.model_output import ModelResponse  # noqa: E402
from lighteval.pipeline import ParallelismManager, Pipeline, PipelineParameters  # noqa: E402
from lighteval.tasks.lighteval_task import LightevalTaskConfig  # noqa: E402
from lighteval.tasks.registry import Registry  # noqa: E402
from lighteval.tasks.requests import Doc, SamplingMethod  # noqa: E402

torch.set_grad_enabled(_autograd)  # LightEval's own backend switches autograd off when it is imported
logging.getLogger("lighteval").setLevel(logging.ERROR)  # its warnings are about few-shot splits that are never used

PASS_AT_1 = "pass@1"
Judge = Callable[[Doc, ModelResponse], list[float | None]]


@dataclasses.dataclass(frozen=True)
class ScoredProblem:
    """A problem as it was asked, its gold answer, and its N completions with their verdicts (None: no verdict)."""

    prompt: str
    gold: str
    completions: list[Completion]
    scores: list[float | None]


@dataclasses.dataclass(frozen=True)
class BenchmarkResult:
    """The scored problems in the order in which they were asked, and the metrics as LightEval reports them."""

    problems: list[ScoredProblem]
    metrics: dict[str, float]


def run_benchmark(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    name: str,
    benchmark: Benchmark,
    problems_dir: Path,
    batch_size: int,
    seed: int,
    thinking: Thinking = Thinking(),
    num_problems: int | None = None,
    description: str = "evaluating",
) -> BenchmarkResult:
    """The model's completions on a benchmark with their verdicts, and LightEval's metrics.

    `num_problems` takes the first so many in LightEval's order, which is a shuffle with a seed of its own. Procedural
    problems are written under `problems_dir`. Raises RecipeError if the data cannot be had.
    """
    sampling = Sampling(
        temperature=benchmark.temperature,
        top_p=benchmark.top_p,
        max_new_tokens=benchmark.max_new_tokens,
        num_samples=benchmark.samples,
        batch_size=batch_size,
        seed=seed,
    )
    question = [{"role": "user", "content": "1+1=?"}]
    rendered_prompt = tokenizer.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    config = task_config(name, benchmark, problems_dir, resolved_thinking(rendered_prompt, thinking))
    answering = OpenR1LightevalModel(model, tokenizer, sampling, description)
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
            ),
            evaluation_tracker=tracker,
            model=answering,
        )
    except OSError as error:  # no network, or a gated dataset without a token
        reason = str(error).partition("\n")[0]
        raise RecipeError(
            f"evaluate.benchmarks: {name}: {config.hf_repo} cannot be loaded ({reason}); it comes from the Hub, "
            "and where it is gated it needs `hf auth login`"
        ) from error
    pipeline.evaluate()
    # The registry copies its configs, so the metric that has the verdicts is the pipeline's, not config's.
    verdicts = pipeline.tasks_dict[config.full_name].metrics[0].sample_level_fn.verdicts
    problems = [
        ScoredProblem(doc.query, doc.get_golds()[0], answering.completions[doc.id], verdicts[doc.id])
        for doc in pipeline.documents_dict[config.full_name]
    ]
    metrics = tracker.metrics_logger.metric_aggregated[config.full_name]
    return BenchmarkResult(problems, {metric: float(value) for metric, value in metrics.items()})


def task_config(
    name: str, benchmark: Benchmark, problems_dir: Path, thinking: Thinking = Thinking()
) -> LightevalTaskConfig:
    """The LightEval task of a benchmark, with our number of samples and tokens, and pass@1 over the samples.

    A standard task keeps its data, prompt and gold, and each of its completions is judged by its own metric. Its stop
    sequences go: they were made for base models, and `Question:` would cut a chain of thought short.
    """
    name = f"open_r1_{name}"  # LightEval's own names are taken, and a `:` in a name means an average over a family
    if benchmark.procedural is None:
        theirs = copy.deepcopy(Registry.load_all_task_configs()[benchmark.task])
        judge = _judge_by_metric(theirs.metrics[0])
        return dataclasses.replace(
            theirs,
            name=name,
            metrics=[_pass_at_1(judge, benchmark.samples)],
            generation_size=benchmark.max_new_tokens,
            stop_sequence=[],
        )
    has_tests = "verification_info" in procedural.FAMILIES[benchmark.procedural.family].COLUMNS
    judge = _judge_by_tests(thinking) if has_tests else _judge_by_gold(thinking)
    return LightevalTaskConfig(
        name=name,
        prompt_function=_doc,
        hf_repo=str(_write_problems(benchmark, problems_dir)),
        hf_subset="default",
        hf_avail_splits=["test"],
        evaluation_splits=["test"],
        metrics=[_pass_at_1(judge, benchmark.samples)],
        generation_size=benchmark.max_new_tokens,
    )


class OpenR1LightevalModel(LightevalModel):
    """A model of LightEval's that samples with `generation` and keeps what it sampled in `completions`, by doc id."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, sampling: Sampling, description: str
    ):
        self.model = model
        self.sampling = sampling
        self.description = description
        self.completions: dict[str, list[Completion]] = {}
        self.config = ModelConfig(model_name=model.name_or_path or "model")
        self._tokenizer = tokenizer
        self._cache = _NoCache()

    def greedy_until(self, docs: list[Doc]) -> list[ModelResponse]:
        """For each doc the texts of its completions. The name is LightEval's; the temperature is ours."""
        conversations = [[{"role": "user", "content": doc.query}] for doc in docs]
        sampled = transformers_backend.generate(
            self.model, self._tokenizer, conversations, self.sampling, self.description
        )
        self.completions.update(zip((doc.id for doc in docs), sampled, strict=True))
        return [
            ModelResponse(input=doc.query, text=[completion.text for completion in completions])
            for doc, completions in zip(docs, sampled, strict=True)
        ]

    def loglikelihood(self, docs: list[Doc]) -> list[ModelResponse]:
        raise NotImplementedError("only tasks that generate are in the table of benchmarks")

    loglikelihood_rolling = loglikelihood

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        return self._tokenizer

    @property
    def add_special_tokens(self) -> bool:
        return False

    @property
    def max_length(self) -> int:
        return self.model.config.max_position_embeddings


class _NoCache:
    """LightEval's Pipeline tells every model's cache about the registry; ours has none to tell."""

    def _init_registry(self, registry: Registry) -> None:
        pass


class PassAt1(SamplingMetric, SampleLevelComputation):
    """The mean of a problem's verdicts, nan if it has none. Keeps the verdicts themselves in `verdicts`, by doc id."""

    def __init__(self, judge: Judge, num_samples: int):
        super().__init__()
        self.judge = judge
        self.n = num_samples
        self.verdicts: dict[str, list[float | None]] = {}

    def num_samples(self) -> int:
        return self.n

    def compute(self, doc: Doc, model_response: ModelResponse, **_) -> float:
        verdicts = self.verdicts[doc.id] = self.judge(doc, model_response)
        judged = [verdict for verdict in verdicts if verdict is not None]
        return float(np.mean(judged)) if judged else float("nan")


def _pass_at_1(judge: Judge, num_samples: int) -> SampleLevelMetric:
    return SampleLevelMetric(
        metric_name=PASS_AT_1,
        higher_is_better=True,
        category=SamplingMethod.GENERATIVE,
        sample_level_fn=PassAt1(judge, num_samples),
        corpus_level_fn=np.nanmean,
    )


def _judge_by_gold(thinking: Thinking) -> Judge:
    """Verdicts of the accuracy reward on the raw texts: it looks behind the thinking by itself."""

    def judge(doc: Doc, response: ModelResponse) -> list[float | None]:
        golds = doc.get_golds() * len(response.text)
        return accuracy_reward(_conversations(response), solution=golds, thinking=thinking)

    return judge


def _judge_by_tests(thinking: Thinking) -> Judge:
    """Verdicts of the binary_code reward in the local sandbox; raises RecipeError at once if there is none here."""
    binary_code_reward([], verification_info=[])

    def judge(doc: Doc, response: ModelResponse) -> list[float | None]:
        tests = [doc.specific["verification_info"]] * len(response.text)
        return binary_code_reward(_conversations(response), verification_info=tests, thinking=thinking)

    return judge


def _conversations(response: ModelResponse) -> list[list[dict[str, str]]]:
    return [[{"role": "assistant", "content": text}] for text in response.text]


def _judge_by_metric(metric: SampleLevelMetric) -> Judge:
    """Verdicts of a task's own metric on one text at a time, its thinking removed as LightEval does it.

    At one text, pass@k with k=1, avg@n and extractive match are the same number: right or wrong.
    """

    def judge(doc: Doc, response: ModelResponse) -> list[float | None]:
        alone = [ModelResponse(text=[text]) for text in response.final_text]
        return [float(metric.compute_sample(doc=doc, model_response=one)[metric.metric_name]) for one in alone]

    return judge


def _doc(row: dict, task_name: str) -> Doc:
    return Doc(row["question"], [row["answer"]], gold_index=0, task_name=task_name, specific=row)


def _write_problems(benchmark: Benchmark, problems_dir: Path) -> Path:
    """The absolute directory that now holds the problems as test.jsonl, which LightEval reads like a Hub dataset."""
    directory = (problems_dir / benchmark.task).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "question": row["prompt"][-1]["content"],
                "answer": row["solution"],
                "verification_info": row.get("verification_info"),
            }
        )
        for row in procedural.rows(benchmark.procedural)
    ]
    (directory / "test.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return directory
