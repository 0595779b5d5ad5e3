"""The sections of a recipe, each a frozen model: every key with its type, unit and default."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

Step = Literal[
    "pretrain",
    "sft",
    "preferences",
    "reward_model",
    "dpo",
    "grpo",
    "generate",
    "distill",
    "evaluate",
    "pipeline",
]
# What ends a run or paces it, and changes nothing of what it does: where that is mended, the same run goes on.
NO_PART_OF_RUN = (
    "stages.*.gate",
    "judge.cache",
    "judge.usd_per_million_*",
    "judge.max_tokens",
    "judge.max_usd",
    "*endpoint.max_concurrent_requests",
    "*endpoint.max_requests_per_minute",
    "*endpoint.timeout_seconds",
    "*endpoint.max_attempts",
    "*endpoint.max_refused_share",
)
STAGE_REFERENCE = "stage:"  # `model.name: stage:cold_start` is the model, `data.0.path: stage:x` the rows that it made


class RecipeError(ValueError):
    """A mistake of the user's: one line each, ready to print. Never shown with a traceback."""

    def __init__(self, *lines: str):
        self.lines = list(lines)
        super().__init__("\n".join(lines))


class Section(BaseModel):
    """Base of all sections: unknown keys and wrong types are errors, values never change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Lora(Section):
    """Train low-rank adapters instead of all weights (peft.LoraConfig)."""

    r: int = Field(default=16, ge=1)
    alpha: int = Field(default=32, ge=1)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    target_modules: str | list[str] = "all-linear"


class Model(Section):
    """The model that is trained or evaluated: a Hub id, a path (`./`, `../`, `/`), or an architecture from scratch."""

    name: str | None = None
    """Hub id; a path begins with ./, ../ (both relative to the recipe) or /; `stage:x` inside a pipeline."""
    revision: str | None = None
    """Commit of the Hub repository; pins what is downloaded."""
    chat_template: str | None = None
    """A .jinja file beside the recipe; without it the tokenizer's own template is used."""
    architecture: dict[str, Any] | None = None
    """`model_type` and the fields of its transformers config, for `pretrain`."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Type in which the weights are loaded; mixed precision is `trainer.bf16`."""
    attn_implementation: str | None = None
    lora: Lora | None = None


class Procedural(Section):
    """Problems that the computer makes, and how their solutions are written down."""

    family: str
    """basic_arithmetic (reasoning-gym's sums), tiny_programs (programs with tests), tiny_chat (small talk) or
    tiny_explanations (explanations of sums with scores)."""
    num_problems: int = Field(gt=0)
    split: Literal["train", "validation", "test"] = "train"
    seed: int = 0
    """Added to the recipe's seed, so that two entries of one recipe can differ."""
    parameters: dict[str, Any] = {}
    """Passed to the family's config, e.g. min_terms, max_terms, min_digits, max_digits."""
    styles: dict[str, float] | None = None
    """Style -> weight; of sums direct, pairs, steps, of programs direct, steps. Default: the family's last alone."""


class DataSource(Section):
    """One source of rows: exactly one of `name` (Hub), `path`, `procedural`.

    A path is a file (.jsonl, .json, .parquet, .csv), a folder of parquet files, or `stage:x` inside a pipeline.
    """

    name: str | None = None
    config: str | None = None
    path: str | None = None
    procedural: Procedural | None = None
    revision: str | None = None
    split: str = "train"
    columns: dict[str, str] = {}
    """Our column -> theirs. Ours: text; messages; prompt, completion, solution; any column a reward asks for."""
    fraction: float = Field(default=1.0, gt=0, le=1)
    """Share of the source's rows that is used, drawn with the recipe's seed."""
    part: list[float] | None = None
    """[from, to], shares of the rows in an order that the recipe's seed decides: [0, 0.9] and [0.9, 1] have no row in
    common, so that one can be trained on and the other held out."""
    where: dict[str, list[float]] = {}
    """Column -> [lowest, highest], both included: only rows within are used, e.g. `pass_rate: [0.1, 0.9]`."""
    sort_by: str | None = None
    """Column by which the rows are put in order, `-column` for falling; a curriculum if nothing shuffles them later."""
    rubric: str | None = None
    """A rubric, for step sft: of rows with prompt, completion and `scores` (JSON, a score for each principle) it makes
    what a judge is asked and the verdict that it should give, so that a judge learns from labelled answers."""
    task: str | None = None
    """What kind of problem the rows are, e.g. math or code: rewards can be for one task alone (`rewards.N.task`)."""
    weight: float | None = Field(default=None, gt=0)
    """Share of `mixture.num_rows` that comes from this source, relative to the weights of the others."""


class Mixture(Section):
    """Rows drawn from all sources of `data` by their weights, with exact counts, in an order that the seed decides."""

    num_rows: int = Field(gt=0)
    """Rows in all; each source gives its share of them, rounded so that the sum is exact."""
    repeat: bool = False
    """Let a source that has fewer rows than its share give them again; else that is an error."""


class Thinking(Section):
    """How a completion marks its thinking; what follows it is the answer."""

    open: str = "<think>"
    close: str = "</think>"
    prefilled: bool | None = None
    """Whether the prompt has already written `open`. Default: seen from the chat template."""
    answer_in: Literal["tags", "rest"] = "tags"
    """Where the answer stands behind the thinking: in a box or an answer block, or `rest`: it is all that follows, as
    in what a base model writes that has never been shown tags."""

    @model_validator(mode="after")
    def _markers_differ(self) -> "Thinking":
        if not self.open or not self.close or self.open in self.close or self.close in self.open:
            raise ValueError(f"open {self.open!r}, close {self.close!r}: none may be empty or part of the other")
        return self


class Reward(BaseModel):
    """A reward by name, its weight, and the parameters of its function (checked against its signature)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str
    label: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$")
    """What its metrics and columns are called; default: its name. Two rewards of one name need two labels."""
    weight: float = Field(default=1.0, allow_inf_nan=False)
    shuffled: bool = False
    """Control experiment: hand the batch's rewards out in random order, so that nothing can be learned from them."""
    task: str | list[str] | None = None
    """Only rows of this task (`data.N.task`, or the data's own column), or of one of these, get a value from this
    reward; the others get none, which is no failure."""
    first_step: int = Field(default=1, gt=0)
    """Optimizer step, counted from 1, from which on this reward counts; before it nobody gets a value from it.

    A rollout that serves several steps is judged once, for the first of them, and an evaluation for the step before it.
    """
    last_step: int | None = Field(default=None, gt=0)
    """The last step in which it counts; null: it counts to the end."""

    @field_validator("task")
    @classmethod
    def _names_a_task(cls, task: str | list[str] | None) -> str | list[str] | None:
        if task is not None and not task:
            raise ValueError(f"{task!r} names no task; give one, or remove the key, so that it is for all rows")
        return task

    @property
    def parameters(self) -> dict[str, Any]:
        return dict(self.model_extra or {})

    @property
    def called(self) -> str:
        """Its name in metrics and columns: the label, or the function's name."""
        return self.label or self.name.rpartition(":")[2]

    @property
    def tasks(self) -> tuple[str, ...] | None:
        """The tasks that it is for; None if it is for all rows."""
        return (self.task,) if isinstance(self.task, str) else None if self.task is None else tuple(self.task)

    @property
    def counts_always(self) -> bool:
        """True if it counts from the first step to the last."""
        return self.first_step == 1 and self.last_step is None

    def is_for(self, task: str | None) -> bool:
        """True if rows of this task (None: of no task in particular) get a value from it."""
        return self.tasks is None or task in self.tasks


class DynamicSampling(Section):
    """Replaces groups of equal rewards, which teach nothing, by those of fresh prompts (DAPO, arXiv 2503.14476)."""

    max_factor: float = Field(default=3.0, gt=1)
    """Sample at most so many times the batch in one step; groups that are still dead then stay in it."""


class Grpo(Section):
    """What the GRPO trainer saves; each can be switched off to see its share.

    The objective stays that of the paper. merge_rollouts and dynamic_sampling change what one step is made of: tokens
    and, with `scale_rewards: batch`, deviations are then those of all its rollouts, and of live groups.
    """

    trim_padding: bool = True
    """Every forward pass is as wide as its own longest row, not as the longest of all rollouts."""
    sort_by_length: bool = True
    """Rows of like length are computed together, within the rows of one optimizer step."""
    skip_dead_groups: bool = True
    """Groups of equal rewards are not computed (with beta 0): their advantage is zero."""
    shrink_generation: bool = True
    """transformers' generate goes on with the unfinished rows alone, and computes a prompt once for its group."""
    judge_early: bool = True
    """Completions are judged as soon as they are finished, while others are sampled (with shrink_generation)."""
    merge_rollouts: bool = True
    """All rollouts of an optimizer step are sampled at once, also where steps_per_generation asks for several."""
    max_generation_batch_size: int | None = Field(default=None, gt=0)
    """Completions that a process samples at once (with shrink_generation); default: all, or as many as fit.

    Whoever runs out of GPU memory goes on with half as many.
    """
    dynamic_sampling: DynamicSampling | None = None


class Endpoint(Section):
    """A server that works in place of this process: OpenAI's chat completions, or a reward model's /classify (vLLM)."""

    base_url: str
    """E.g. http://localhost:8000/v1; of a reward model http://localhost:8000."""
    model: str
    """The model's name at the server."""
    api_key_variable: str | None = None
    """Environment variable that holds the key; None: the server asks for none."""
    max_concurrent_requests: int = Field(default=64, gt=0)
    max_requests_per_minute: int | None = Field(default=None, gt=0)
    timeout_seconds: float = Field(default=1800.0, gt=0)
    """Of one request; one that takes longer is sent again."""
    max_attempts: int = Field(default=10, gt=0)
    """Requests for one completion before the run is stopped: a server that fails is no wrong answer."""
    max_refused_share: float = Field(default=0.01, ge=0, le=1)
    """Completions that the server may refuse for what was asked (HTTP 400, 413, 422), before the run is stopped."""
    extra_body: dict[str, Any] = {}
    """Further keys of each request, e.g. top_k."""


class Generate(Section):
    """How prompts are answered: by the recipe's model in this process, by `hardware.vllm`, or by an endpoint."""

    samples: int = Field(default=1, gt=0)
    """Completions per prompt."""
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_completion_length: int = Field(gt=0)
    """Tokens; a completion that does not end within them is truncated."""
    batch_size: int = Field(default=64, gt=0)
    """Completions sampled at once by each process (by transformers; a server makes its own batches)."""
    prompts_per_shard: int = Field(default=256, gt=0)
    """Prompts of a parquet file; processes and shares divide the work by whole files."""
    endpoint: Endpoint | None = None


class Distill(Generate):
    """Which teacher is sampled, and how. Which of its traces are kept is for `keep` to say."""

    teacher: str
    """As model.name."""
    teacher_revision: str | None = None


class Judge(Section):
    """The model that judges answers against a rubric in place of people: a model in this process, or a server.

    What is judged, and by which rubric, is for a `judge` reward or for `preferences` to say.
    """

    name: str | None = None
    """As model.name: a model that transformers loads here."""
    revision: str | None = None
    endpoint: Endpoint | None = None
    """A server that judges; exactly one of `name` and `endpoint`, or `hardware.judge`, which serves `name`."""
    judgements: int = Field(default=4, gt=0)
    """How often each answer is judged, or more where `candidates` are not all at each place by then; its score is the
    mean. Four in R1 (Nature, Methods)."""
    candidates: int = Field(default=1, gt=0)
    """Answers to one prompt that the judge sees together, in random order, each as often at every place."""
    temperature: float = Field(default=1.0, ge=0)
    top_p: float = Field(default=1.0, gt=0, le=1)
    max_completion_length: int = Field(default=1024, gt=0)
    """Tokens of a verdict, its thinking included."""
    batch_size: int = Field(default=64, gt=0)
    """Verdicts that a model in this process gives at once."""
    cache: str | None = None
    """Folder of the verdicts, relative to the recipe; default: the run's own. What stands there when a run begins is
    not paid for again; runs at work at once do not see each other's. Of a server the model's name tells who judged."""
    usd_per_million_prompt_tokens: float | None = Field(default=None, ge=0)
    usd_per_million_completion_tokens: float | None = Field(default=None, ge=0)
    max_tokens: int | None = Field(default=None, gt=0)
    """The run is stopped before its judge has used more tokens than this, of prompts and verdicts together."""
    max_usd: float | None = Field(default=None, gt=0)
    """The run is stopped before its judge has cost more than this."""


class Preferences(Generate):
    """How prompts are answered, and which two answers to one prompt become a pair of a better and a worse one."""

    samples: int = Field(default=4, gt=1)
    """Completions per prompt."""
    rubric: str
    """A .yaml file beside the recipe: what the judge looks at."""
    min_margin: float = Field(default=1.0, ge=0)
    """A pair is kept if its scores differ by more than this. 1 in R1 (Nature, Methods)."""
    rejected: Literal["worst", "random"] = "worst"
    """Beside the best answer of a prompt: the worst, or any that is worse by the margin (Tulu 3, arXiv 2411.15124)."""
    max_length_ratio: float | None = Field(default=None, gt=1)
    """Tokens of the longer answer of a pair, over those of the shorter."""
    balance_lengths: bool = True
    """Drop pairs until the better answer is the longer one as often as the shorter one."""
    max_pairs: int | None = Field(default=None, gt=0)
    """Keep at most this many in all, drawn evenly by the seed; lengths that are balanced stay so."""


class Keep(Section):
    """Which completions are kept: those that every reward verifies, that can be read, and that are not there already.

    R1 dropped traces of mixed languages, long paragraphs and code blocks (arXiv 2501.12948, section 2.3.3). What is
    null is not looked at.
    """

    min_reward: float = 1.0
    """A completion is kept if every reward gives at least this."""
    min_tokens: int | None = Field(default=None, gt=0)
    max_tokens: int | None = Field(default=None, gt=0)
    language: str | None = None
    """ISO 639-1 code of the language that the completion is to be written in."""
    min_language_share: float = Field(default=0.95, gt=0, le=1)
    """Share of its words that have to be in `language`; one without words is in no language, and stays."""
    max_paragraph_words: int | None = Field(default=None, gt=0)
    """Words between two line breaks; of more nobody finds his way through the paragraph."""
    code_in_thinking: bool = True
    """Whether a fenced code block may stand in the thinking."""
    max_similarity: float | None = Field(default=None, gt=0, le=1)
    """Share of word 5-grams (Jaccard) that it may have in common with one kept for the same prompt before."""
    max_per_prompt: int | None = Field(default=None, gt=0)
    max_traces: int | None = Field(default=None, gt=0)
    """Keep at most this many in all, to compare teachers at equal numbers of traces."""


class Evaluate(Section):
    """What LightEval scores. Sampling that is not given here is the benchmark table's."""

    benchmarks: list[str] = Field(min_length=1)
    samples: int | None = Field(default=None, gt=0)
    """Completions per problem; pass@1 is their mean."""
    num_problems: int | None = Field(default=None, gt=0)
    """Score only so many problems, the same subset each time."""
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_new_tokens: int | None = Field(default=None, gt=0)
    batch_size: int = Field(default=64, gt=0)
    models: dict[str, str] = {}
    """Label -> model (as model.name), to score several models in one process instead of `model`."""
    copies: dict[str, str] = {}
    """Benchmark -> file (.jsonl, .json, .parquet) with the columns of its Hub data set, read instead of the Hub."""
    endpoint: Endpoint | None = None
    """A server that answers in place of this process; the model named is then only a label and a tokenizer."""
    max_truncated_share: float | None = Field(default=0.5, gt=0, le=1)
    """With more truncated completions a score says more of the token limit than of the model, and is refused."""


class VllmServer(Section):
    """vLLM in a server of its own, beside the processes that train, or that only ask it."""

    nodes: int = Field(default=0, ge=0)
    """Nodes that only serve, beside `hardware.nodes`; 0: it serves on GPUs of the one node that also trains."""
    tensor_parallel_size: int = Field(default=1, gt=0)
    data_parallel_size: int = Field(default=1, gt=0)
    """Copies of the model; tensor_parallel_size x data_parallel_size GPUs serve in all."""
    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    max_model_length: int | None = Field(default=None, gt=0)
    """Tokens of a prompt and its completion; default: what the model was made for."""
    start_timeout_seconds: float = Field(default=1800.0, gt=0)
    """The job ends if the server does not answer by then."""

    @property
    def num_gpus(self) -> int:
        return self.tensor_parallel_size * self.data_parallel_size

    @property
    def copies_per_node(self) -> int:
        """Copies of the model on each node that serves."""
        return self.data_parallel_size // max(1, self.nodes)


class Hardware(Section):
    """Where the run takes place. `accelerate` names a file in recipes/accelerate_configs/."""

    nodes: int = Field(default=1, gt=0)
    """Nodes that train."""
    gpus_per_node: int = Field(default=0, ge=0)
    """GPUs of each node that train."""
    gpu: str | None = None
    """What they are, e.g. h100_80gb: what `make plan` counts with."""
    processes_per_node: int | None = Field(default=None, gt=0)
    """Default: one per GPU, or one on a CPU."""
    threads_per_process: int | None = Field(default=None, gt=0)
    """CPU threads of torch; default: the cores of the node shared out. The same number gives the same bits."""
    accelerate: str = "cpu"
    vllm: VllmServer | None = None
    """vLLM that samples from the policy; to train with it, `trainer.vllm_mode: server`."""
    judge: VllmServer | None = None
    """vLLM that serves the judge, `judge.name`, beside all others."""
    usd_per_hour: float | None = Field(default=None, ge=0)
    """Price of all nodes together; fills cost_usd in run.json."""

    @property
    def num_processes(self) -> int:
        return self.nodes * (self.processes_per_node or self.gpus_per_node or 1)

    @property
    def servers(self) -> dict[str, VllmServer]:
        """Key -> section of the servers that are started for the run, in the order of their nodes."""
        both = {"vllm": self.vllm, "judge": self.judge}
        return {key: section for key, section in both.items() if section is not None}


class Guards(Section):
    """When training stops by itself. null switches a guard off."""

    max_truncated_share: float | None = Field(default=0.95, gt=0, le=1)
    """Stop if at least this share of completions hit max_completion_length in each of `truncated_steps` logs."""
    truncated_steps: int = Field(default=5, gt=0)
    max_dead_steps: int | None = Field(default=20, gt=0)
    """Stop after so many logs in a row in which every group has equal rewards."""
    max_judge_failed_share: float | None = Field(default=0.1, gt=0, le=1)
    """Stop if the judge broke (not: judged wrong) on more than this share of the completions, three logs in a row."""
    min_verified_gold_share: float | None = Field(default=0.95, ge=0, le=1)
    """Stop before training if the reward accepts fewer of the data's own gold answers; null does not look."""
    stop_on_non_finite: bool = True
    """Stop if loss or gradient norm is nan or infinite."""
    max_ratio_drift: float | None = Field(default=0.5, gt=0)
    """Stop if the mean importance ratio (of the policy to the one, or the engine, that sampled) is further than this
    from 1 in each of `ratio_steps` logs."""
    ratio_steps: int = Field(default=5, gt=0)
    min_entropy_share: float | None = Field(default=0.2, gt=0, lt=1)
    """Share of the entropy of the first `entropy_steps` logs. A sign of collapse if so many logs in a row are below it,
    and reward has not risen since the start or has fallen from its best."""
    entropy_steps: int = Field(default=10, gt=1)
    truth: str | None = None
    """The reward, by its name or label, whose values on eval_data (from 0 to 1) tell what is really wanted, e.g. one of
    weight 0; default: each that verifies (accuracy, code and the like, final_answer, last_number, instructions). If it
    is one, trainer.load_best_model_at_end goes by it, where trainer.metric_for_best_model says nothing else."""
    max_eval_drop: float | None = Field(default=2.0, gt=0)
    """Standard errors, of the difference of two evaluations; the more there have been, the more it takes, for the best
    of many is partly luck. A sign of reward hacking if the truth on eval_data is further below its best, and the reward
    in training, or one of the rewards that are no truth, higher than it was then; since a reward has last begun or
    ended (first_step, last_step)."""
    max_length_drift: float | None = Field(default=None, gt=1)
    """A sign of hacking if completions are so many times as long as in the first `entropy_steps` logs, or as short."""
    max_kl: float | None = Field(default=None, gt=0)
    """Nats a token. A sign of hacking if the policy is further from the reference (with trainer.beta) in each of
    `entropy_steps` logs."""
    stop_on_signs: bool = False
    """Stop at a sign of collapse or hacking; else it is a warning, printed once and kept in warnings.jsonl. With
    trainer.load_best_model_at_end a run that stops so is done, and its model the best checkpoint; as long as there is
    none yet, it only warns."""
    weight_sync_timeout_seconds: float | None = Field(default=600.0, gt=0)
    """Stop if vLLM has not taken over the weights by then."""


class Gate(Section):
    """What a stage has to have reached before the next one begins."""

    metric: str
    """Of an evaluation `<label>/<benchmark>/<metric>`, e.g. cold_start/math_500/pass@1; of a stage that samples
    `kept` or `kept_share`; of one that trains a key of its metrics.jsonl, the mean of its last `last_logs` values."""
    at_least: float | None = None
    at_most: float | None = None
    last_logs: int = Field(default=10, gt=0)

    @model_validator(mode="after")
    def _demands_something(self) -> "Gate":
        if self.at_least is None and self.at_most is None:
            raise ValueError(f"{self.metric}: nothing is demanded of it; give at_least or at_most")
        return self


class Stage(Section):
    """One stage of a pipeline: a recipe with values set, e.g. `model.name: stage:cold_start`."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    recipe: str
    set: dict[str, Any] = {}
    """Dotted key -> value, applied over the stage's recipe."""
    gate: list[Gate] = []


class Loop(Section):
    """Stages of a pipeline, one after the other, that are run several times.

    In the second round the stages are called `<name>_2`. A stage behind the loop that refers to one inside means its
    last round; an evaluation there scores every round.
    """

    stages: list[str] = Field(min_length=1)
    rounds: int = Field(default=1, gt=0)
    feeds: dict[str, str] = {}
    """Stage before the loop -> stage in it: from the second round on, who refers to the former gets what the latter
    made in the round before, e.g. `reasoning_rl: final_rl`."""


class Recipe(Section):
    """A whole run. `seed` is the only seed there is."""

    step: Step
    seed: int = 0
    description: str = ""
    model: Model = Model()
    data: list[DataSource] = []
    eval_data: list[DataSource] = []
    """What GRPO is evaluated on while it trains, when `trainer.eval_strategy` says so."""
    rewards: list[Reward] = []
    thinking: Thinking = Thinking()
    trainer: dict[str, Any] = {}
    mixture: Mixture | None = None
    grpo: Grpo = Grpo()
    generate: Generate | None = None
    distill: Distill | None = None
    preferences: Preferences | None = None
    judge: Judge | None = None
    keep: Keep = Keep()
    evaluate: Evaluate | None = None
    hardware: Hardware = Hardware()
    guards: Guards = Guards()
    stages: list[Stage] = []
    loop: Loop | None = None
    _source: Path = PrivateAttr(default=Path("recipe.yaml"))

    @property
    def source(self) -> Path:
        """The file that the recipe was read from."""
        return self._source

    def data_sources(self) -> Iterator[tuple[str, DataSource]]:
        """Yields every source with its key: data.0, …, eval_data.0, …"""
        for section in ("data", "eval_data"):
            yield from ((f"{section}.{index}", source) for index, source in enumerate(getattr(self, section)))

    def rubrics(self) -> Iterator[tuple[str, str]]:
        """Yields every rubric with its key: preferences.rubric, rewards.0.rubric, data.0.rubric, …"""
        if self.preferences is not None:
            yield "preferences.rubric", self.preferences.rubric
        for index, reward in enumerate(self.rewards):
            if reward.name == "judge" and isinstance(rubric := reward.parameters.get("rubric"), str):
                yield f"rewards.{index}.rubric", rubric
        yield from ((f"{key}.rubric", source.rubric) for key, source in self.data_sources() if source.rubric)

    @property
    def sha256(self) -> str:
        """Hash of what the recipe says, wherever the file lies.

        Values that are the default do not count, so that a new key does not make every old run another one. Nor do
        gates, caps, prices and what else is in NO_PART_OF_RUN: a run that has met its cap goes on under a higher one.
        """
        canonical = json.dumps(_of_run(self.model_dump(mode="json", exclude_defaults=True)), sort_keys=True)
        return hashlib.sha256(canonical.encode()).hexdigest()

    def path(self, value: str) -> Path:
        """A path written in the recipe; relative ones are relative to the recipe's own folder."""
        return (self.source.parent / value).resolve()

    def model_path(self, name: str) -> str:
        """`name` as from_pretrained takes it: an absolute path if it is written as one, else the Hub id itself."""
        return str(self.path(name)) if is_path(name) else name


def is_path(name: str) -> bool:
    """True if a model name is meant as a path: it begins with ./, ../ or /."""
    return name.startswith(("./", "../", "/"))


def is_part_of_run(key: str) -> bool:
    """False for the dotted key of a value that changes nothing of what a run does (NO_PART_OF_RUN)."""
    return not any(fnmatchcase(key, pattern) for pattern in NO_PART_OF_RUN)


def _of_run(values: Any, key: str = "") -> Any:
    """The values without those that are no part of the run, nor of the runs of its stages."""
    if isinstance(values, list):
        return [_of_run(value, f"{key}.{index}") for index, value in enumerate(values)]
    if not isinstance(values, Mapping):
        return values
    inside = "" if fnmatchcase(key, "stages.*.set") else f"{key}." if key else ""
    parts = {name: (value, _of_run(value, f"{inside}{name}")) for name, value in values.items()}
    return {
        name: left
        for name, (value, left) in parts.items()
        if is_part_of_run(f"{inside}{name}") and (left or not value)  # what all was taken from is as if not written
    }
