"""Answers -> scores: by a model, against a rubric, each judged several times and in changing company."""

import contextlib
import dataclasses
import hashlib
import os
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2

from open_r1 import vllm_server
from open_r1.feedback.asking import request, schema_of
from open_r1.feedback.cache import VerdictCache, key_of
from open_r1.feedback.orders import Unit, units_of
from open_r1.feedback.reading import read_verdict
from open_r1.feedback.rubric import Rubric
from open_r1.feedback.spending import Spending
from open_r1.generation import Backend, Completion, Conversation, Row, Sampling
from open_r1.generation.backends import REQUESTS_PER_COPY, SECONDS_OF_REQUEST
from open_r1.generation.endpoint import EndpointBackend
from open_r1.recipe import Endpoint, Judge, Recipe, RecipeError, Thinking, is_path
from open_r1.recipe.trainer_fields import trainer_value
from open_r1.run_record import weights_sha256
from open_r1.shares import directories_of_run
from open_r1.step_process import RunStopped

if TYPE_CHECKING:
    import torch

FOLDER = "verdicts"  # of a run, if judge.cache names none
FILES_OF_MODEL = (  # what of a model's folder changes its verdicts, beside *.safetensors
    *("*.json", "*.jinja", "*.txt", "*.model"),  # config, generation config, tokenizer, chat template
    "pytorch_model*.bin",
)
STEPS_WITH_JUDGE = ("grpo", "preferences", "generate", "distill")


@dataclasses.dataclass(frozen=True)
class Asked:
    """One verdict that is wanted: what is sent for it, and the answers that it is about, in the order shown."""

    key: str
    messages: list[dict[str, str]]
    schema: dict[str, Any]
    shown: tuple[str, ...]


class ModelJudge:
    """Scores answers with a model that `backend` samples from; what it said before is in `cache`.

    `who` tells this model from others, in the keys of the cache. `file` is the recipe, for errors. `spending` is the
    backend's meter, here for the report alone. If it `asks_again`, what stands in the cache and cannot be read is asked
    for once more. One for a process: two would write over what the other has spent.
    """

    def __init__(
        self,
        section: Judge,
        backend: Backend,
        who: Mapping[str, Any],
        cache: VerdictCache,
        spending: Spending,
        seed: int = 0,
        file: str = "recipe.yaml",
        asks_again: bool = False,
    ):
        self._section, self._backend, self._who, self._cache = section, backend, dict(who), cache
        self._spending, self._file = spending, file
        self._sampling = Sampling(
            temperature=section.temperature,
            top_p=section.top_p,
            max_new_tokens=section.max_completion_length,
            num_samples=1,
            batch_size=section.batch_size,
            seed=seed,
        )
        self._counts = Counter(verdicts=0, cached=0, unreadable=0, refused=0)
        self._unreadable: set[str] = set()  # keys of verdicts
        self._asks_again, self._asked_again = asks_again, set()  # the latter are keys as well
        self._first_less_last, self._spread = _Sum(), _Sum()
        self._lock = threading.Lock()

    @property
    def is_elsewhere(self) -> bool:
        """True if a server judges, and not a model in this process."""
        return isinstance(self._backend, EndpointBackend)

    @property
    def compares(self) -> bool:
        """True if the judge sees several answers to a prompt together."""
        return self._section.candidates > 1

    def scores(
        self,
        rubric: Rubric,
        prompts: Sequence[Conversation],
        groups: Sequence[Sequence[str]],
        thinking: Thinking = Thinking(),
        only_to_compare: bool = False,
    ) -> list[list[float | None] | None]:
        """For each of P prompts the scores of its completions, on the rubric's scale; None for one without a verdict.

        A score is the mean over all judgements of the answer that can be read. Equal answers to a prompt are judged
        once. Where the rubric shows answers alone, a completion whose thinking never ends is not judged: its score is
        the lowest. `thinking` is how the completions mark their thinking. If scores are `only_to_compare`, nothing is
        asked about prompts with fewer than two completions that differ in what the judge sees, and None is in the place
        of their scores.

        All verdicts that the cache does not have are asked for together, and are in it as soon as they have come.
        Raises RunStopped if the server fails, verdicts cannot be written down, or more would be spent than the recipe
        allows; RecipeError if the judge's chat template or the rubric's own does not take what is asked. Whoever calls
        while it judges waits.
        """
        with self._lock:
            return self._scores(rubric, prompts, groups, thinking, only_to_compare)

    def _scores(self, rubric, prompts, groups, thinking, only_to_compare) -> list[list[float | None] | None]:
        seen_PG = [[rubric.seen(text, thinking) for text in group] for group in groups]
        asked_P = [
            [self._asked(rubric, prompt, unit) for unit in self._units(prompt, seen_G)]
            for prompt, seen_G in zip(prompts, seen_PG, strict=True)
        ]
        needed_P = [not only_to_compare or len(set(seen_G)) > 1 for seen_G in seen_PG]
        places = [asked for units in asked_P for unit in units for asked in unit]
        needed_units = [unit for units, needed in zip(asked_P, needed_P, strict=True) if needed for unit in units]
        verdicts = self._verdicts(rubric, places, {asked.key for unit in needed_units for asked in unit})
        scores_PG: list[list[float | None] | None] = []
        for units, seen_G, needed in zip(asked_P, seen_PG, needed_P, strict=True):
            if not needed:
                scores_PG.append(None)
                continue
            score_of = self._score_of(rubric, units, verdicts) | {None: float(rubric.lowest)}
            scores_PG.append([score_of.get(seen) for seen in seen_G])
        return scores_PG

    def report(self) -> dict[str, Any]:
        """What was judged since this was made and how well (`report_of`), and what the run has spent on it.

        requests, prompt_tokens, completion_tokens, usd   of this process in all attempts of the run
        """
        return {**report_of(self.tally()), **self._spending.report()}

    def forget_unreadable(self) -> None:
        """Takes what could not be read out of the cache: a run that ends for it asks again when it is started again.

        Where that cannot be written down it is left: why the run ends is more to the point.
        """
        with contextlib.suppress(OSError):
            for key in self._unreadable:
                self._cache.take_back(key)
        self._unreadable.clear()

    def tally(self) -> dict[str, float]:
        """The numbers that `report_of` reads, since this was made: those of several judges can be added up."""
        return {
            **self._counts,
            "orders": self._first_less_last.number,
            "first_less_last": self._first_less_last.total,
            "judged_again": self._spread.number,
            "deviations": self._spread.total,
        }

    def _units(self, prompt: Conversation, seen_G: Sequence[str | None]) -> list[Unit]:
        answers = list(dict.fromkeys(seen for seen in seen_G if seen is not None))
        return units_of(prompt, answers, self._section.judgements, self._section.candidates)

    def _asked(self, rubric: Rubric, prompt: Conversation, unit: Unit) -> list[Asked]:
        asked = []
        for number, shown in unit:
            messages, schema = request(rubric, prompt, shown), schema_of(rubric, len(shown))
            key = key_of(self._who, messages, schema, self._sampling, number)
            asked.append(Asked(key, messages, schema, shown))
        return asked

    def _verdicts(
        self, rubric: Rubric, places: Sequence[Asked], needed: set[str]
    ) -> dict[str, list[dict[str, int]] | None]:
        """Key -> the verdict, None if it cannot be read or was refused, of those keys that are needed."""
        places = list({each.key: each for each in places}.values())
        asked = [each for each in places if each.key in needed]
        found = {each.key: verdict for each in asked if (verdict := self._found(each, rubric)) is not None}
        self._counts.update(verdicts=len(asked), cached=len(found))
        found |= self._sampled(places, needed - found.keys())
        verdicts = {each.key: _read(found[each.key], rubric, len(each.shown)) for each in asked}
        refused = {key for key, verdict in found.items() if verdict.refused is not None}
        unreadable = {key for key, verdict in verdicts.items() if verdict is None} - refused
        self._counts.update(refused=len(refused), unreadable=len(unreadable))
        self._unreadable |= unreadable
        return verdicts

    def _found(self, asked: Asked, rubric: Rubric) -> Completion | None:
        """The verdict in the cache; None if there is none, or it is to be asked for again."""
        verdict = self._cache.get(asked.key)
        if not self._asks_again or verdict is None or asked.key in self._asked_again:
            return verdict
        if _read(verdict, rubric, len(asked.shown)) is not None:
            return verdict
        self._asked_again.add(asked.key)
        self._cache.take_back(asked.key)
        return None

    def _sampled(self, asked: Sequence[Asked], missing: Collection[str]) -> dict[str, Completion]:
        """What the model says to those whose keys are missing; each is in the cache as soon as it is there.

        The backend is told of all that could be asked, so that a verdict has the seed of its place in this call,
        whatever is needed, and whatever an earlier attempt has left in the cache; and another one if it was taken back,
        or it would be the same.
        """
        wanted_of: dict[int, set[Row]] = defaultdict(set)
        for index, each in enumerate(asked):
            if each.key in missing:
                wanted_of[self._cache.times_taken_back(each.key)].add((index, 0))
        messages, schemas = [each.messages for each in asked], [each.schema for each in asked]
        sampled = {}
        try:
            for times, wanted in sorted(wanted_of.items()):
                sampling = dataclasses.replace(self._sampling, seed=self._sampling.seed + times, schemas=schemas)
                with contextlib.closing(self._backend.sample(messages, sampling, wanted)) as completions:
                    for (index, _), verdict in completions:
                        sampled[asked[index].key] = verdict
                        if verdict.refused is None:
                            self._keep(asked[index].key, verdict)
        except jinja2.TemplateError as error:
            raise RecipeError(
                f"{self._file}: judge.name: its chat template does not take what is asked ({error}); where it knows no "
                f"system message, give the rubric a template of its own"
            ) from None
        return sampled

    def _keep(self, key: str, verdict: Completion) -> None:
        try:
            self._cache.add(key, verdict)
        except OSError as error:
            raise RunStopped(
                f"{self._file}: judge.cache: verdicts can no longer be written to {self._cache.folder} "
                f"({error.strerror}); make room, and start again: no verdict that was written is paid for twice"
            ) from error

    def _score_of(
        self, rubric: Rubric, units: Sequence[Sequence[Asked]], verdicts: Mapping[str, list[dict[str, int]] | None]
    ) -> dict[str | None, float]:
        """Answer -> its mean score, of those that have one."""
        scores_of: dict[str, list[float]] = defaultdict(list)
        for unit in units:
            if any(verdicts[asked.key] is None for asked in unit):
                continue
            for asked in unit:
                scores = [rubric.score(of_answer) for of_answer in verdicts[asked.key]]
                for answer, score in zip(asked.shown, scores, strict=True):
                    scores_of[answer].append(score)
                if len(scores) > 1:
                    self._first_less_last.add(scores[0] - scores[-1])
        for scores in scores_of.values():
            if len(scores) > 1:
                self._spread.add(statistics.stdev(scores))
        return {answer: statistics.fmean(scores) for answer, scores in scores_of.items()}


def _read(verdict: Completion, rubric: Rubric, num_answers: int) -> list[dict[str, int]] | None:
    if verdict.refused is not None or verdict.truncated:
        return None
    return read_verdict(verdict.text, rubric, num_answers)


class _Sum:
    """The sum of what was added, and how much that was."""

    def __init__(self):
        self.total, self.number = 0.0, 0

    def add(self, value: float) -> None:
        self.total, self.number = self.total + value, self.number + 1


def report_of(tally: Mapping[str, float]) -> dict[str, Any]:
    """What was judged, and how well, of the tally of a judge, or the sum of several.

    verdicts       asked for, of them `cached`; `unreadable` and `refused` (by the server) ones gave no score
    position_bias  mean score of the answers shown first less that of those shown last; None if all were alone
    spread         mean standard deviation of an answer's score between its judgements; None if none has two
    """
    return {
        **{name: int(tally.get(name, 0)) for name in ("verdicts", "cached", "unreadable", "refused")},
        "position_bias": tally["first_less_last"] / tally["orders"] if tally.get("orders") else None,
        "spread": tally["deviations"] / tally["judged_again"] if tally.get("judged_again") else None,
    }


def judge_of(
    recipe: Recipe,
    run_dir: Path,
    process_index: int = 0,
    num_processes: int = 1,
    device: "torch.device | str" = "cpu",
    asks_again: bool = False,
) -> ModelJudge:
    """The judge of the recipe's section `judge`: its endpoint, vLLM that was started for it, or a model loaded here.

    Its verdicts are in `judge.cache`, or in `run_dir/verdicts` and, to be read, in those of the run's shares; what it
    spends is in `run_dir/judging-<process>.json`. Raises RecipeError if the judge cannot be had.
    """
    section, file = recipe.judge, str(recipe.source)
    spending = Spending.load(section, file, run_dir, process_index, num_processes)
    cache = _cache_of(recipe, run_dir)
    if (endpoint := endpoint_of_judge(recipe)) is not None:
        key = "judge.endpoint" if section.endpoint is not None else "hardware.judge"
        backend: Backend = EndpointBackend(endpoint, file, key, meter=spending)
    else:
        backend = _backend_here(recipe, spending, device)
    return ModelJudge(section, backend, who_judges(recipe), cache, spending, recipe.seed, file, asks_again)


def _cache_of(recipe: Recipe, run_dir: Path) -> VerdictCache:
    folder, beside = run_dir / FOLDER, [each / FOLDER for each in directories_of_run(run_dir) if each != run_dir]
    if recipe.judge.cache:
        folder, beside = recipe.path(recipe.judge.cache), []
    try:
        return VerdictCache(folder, beside)
    except OSError as error:
        raise RecipeError(
            f"{recipe.source}: judge.cache: verdicts cannot be kept in {folder} ({error.strerror}); name a folder that "
            f"can be read and written"
        ) from None


def endpoint_of_judge(recipe: Recipe) -> Endpoint | None:
    """Where verdicts are asked for: the judge's endpoint, or the vLLM started for it; None if in this process."""
    section, server = recipe.judge, recipe.hardware.judge
    if section.endpoint is not None or server is None or not (url := os.environ.get(vllm_server.JUDGE_URL)):
        return section.endpoint
    return Endpoint(
        base_url=f"{url}/v1",
        model=recipe.model_path(section.name),
        max_concurrent_requests=max(1, REQUESTS_PER_COPY * server.data_parallel_size // recipe.hardware.num_processes),
        timeout_seconds=SECONDS_OF_REQUEST,
    )


def who_judges(recipe: Recipe) -> dict[str, Any]:
    """What tells the judge from others: its files, wherever they lie, or its name and revision, or a server's name.

    A server's address is none of it; what else is sent with each request is, for it changes what the model says. So is
    the dtype of a model in this process.
    """
    section = recipe.judge
    if section.endpoint is not None:
        return {"model": section.endpoint.model, "extra_body": section.endpoint.extra_body}
    dtype = {"dtype": recipe.model.dtype} if recipe.hardware.judge is None else {}
    folder = Path(recipe.model_path(section.name))
    if not is_path(section.name) or not folder.is_dir():
        return {"name": str(folder), "revision": section.revision, **dtype}
    who = {"files_sha256": _sha256_of_files(folder), **dtype}
    with contextlib.suppress(FileNotFoundError):  # other weights are among the files
        who["weights_sha256"] = weights_sha256(folder)
    return who


def _sha256_of_files(folder: Path) -> str:
    """Hash of names and contents of a model's files but for *.safetensors."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in FILES_OF_MODEL for path in folder.glob(pattern)):
        with path.open("rb") as file:
            digest.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def _backend_here(recipe: Recipe, spending: Spending, device: "torch.device | str") -> Backend:
    from open_r1.generation.transformers_backend import TransformersBackend
    from open_r1.modeling import load_model, load_tokenizer

    name, revision = recipe.judge.name, recipe.judge.revision
    tokenizer = load_tokenizer(recipe, name, revision, own_template=True)
    if not tokenizer.chat_template:
        raise RecipeError(f"{recipe.source}: judge.name: {name!r} has no chat template; a judge is asked by messages")
    return TransformersBackend(load_model(recipe, name, revision).to(device), tokenizer, spending)


def judge_problems(recipe: Recipe) -> Iterator[str]:
    """Yields a line `key: what is wrong; mend` for each mistake in `judge`, and what belongs to it."""
    section, served = recipe.judge, recipe.hardware.judge is not None
    if section is not None and section.cache and recipe.path(section.cache).is_file():
        yield f"judge.cache: {recipe.path(section.cache)} is a file; name a folder"
    if served and recipe.step not in STEPS_WITH_JUDGE:
        yield f"hardware.judge: step {recipe.step} has no judge; remove it"
        return
    if section is None:
        if served:
            yield "judge: missing; hardware.judge serves judge.name"
        return
    if section.name is None and section.endpoint is None:
        mend = "what hardware.judge serves" if served else "or give judge.endpoint"
        yield f"judge.name: missing; a Hub id or a path that begins with ./, {mend}"
    elif section.name is not None and section.endpoint is not None:
        yield "judge.endpoint: cannot go together with judge.name; remove one"
    if served and section.endpoint is not None:
        yield "hardware.judge: serves judge.name, but judge.endpoint is another server; remove one"
    if section.temperature == 0 and section.candidates == 1 and section.judgements > 1:
        yield (
            f"judge.judgements: {section.judgements} verdicts at temperature 0 are equal; write judgements: 1, or give "
            f"judge.temperature"
        )
    key, samples = _samples(recipe)
    if isinstance(samples, int) and section.candidates > max(1, samples):
        yield (
            f"judge.candidates: {section.candidates} are more than the {samples} answers to a prompt; lower it, or "
            f"raise {key}"
        )
    extra_body = section.endpoint.extra_body if section.endpoint is not None else {}
    cap = "max_tokens" if section.max_tokens is not None else "max_usd" if section.max_usd is not None else None
    if cap and extra_body.get("max_tokens", 0) is None and not isinstance(extra_body.get("max_completion_tokens"), int):
        yield (
            f"judge.endpoint.extra_body.max_tokens: null leaves verdicts without a limit, and judge.{cap} could be "
            f"passed; add max_completion_tokens: {section.max_completion_length}"
        )
    for name in ("usd_per_million_prompt_tokens", "usd_per_million_completion_tokens"):
        if section.max_usd is not None and getattr(section, name) is None:
            yield f"judge.{name}: missing; judge.max_usd is counted by it"


def _samples(recipe: Recipe) -> tuple[str, Any]:
    """The key that says how many answers to one prompt the recipe's step makes, and how many; None if it makes none."""
    if recipe.step == "grpo":
        return "trainer.num_generations", trainer_value("grpo", recipe.trainer, "num_generations")
    for key in ("preferences", "generate", "distill"):
        if (section := getattr(recipe, key)) is not None:
            return f"{key}.samples", section.samples
    return "samples", None
