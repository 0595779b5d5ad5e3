"""A finished run -> the files that are published of it, under the names that they have in the repository.

Of a step that samples kept/ and prompts/, of an evaluation its answers and its scores; each is one commit with a card.
"""

import glob
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow
import pyarrow.parquet

from open_r1.curation.decontaminate import REPORT_FILE
from open_r1.curation.rejection import KEPT, PROMPTS
from open_r1.publishing import card
from open_r1.publishing.card import Config, Facts
from open_r1.publishing.paths import is_absolute, names_of_paths, paths_to_look_for, table_to_send, without_paths
from open_r1.recipe import RecipeError
from open_r1.report.reading import json_object, tolerant
from open_r1.resuming import RECIPE_FILE
from open_r1.run_record import FILE_NAME, read_record
from open_r1.shares import COUNTS_OF_TRACES

Content = TypeVar("Content")

CARD_FILE = "README.md"
SCORES_FILE = "scores.json"
STEPS = (*COUNTS_OF_TRACES, "evaluate")
# Benchmarks whose authors ask that their problems be shown nowhere on the web -> where they ask it.
NOT_TO_BE_SHOWN = {"gpqa_diamond": "the terms of Idavidrein/gpqa"}
BAD_IN_CONFIG_NAMES = '<>:/\\|?*"'  # a config's name becomes a folder's


@dataclass(frozen=True)
class Publication:
    """What goes to one repository."""

    repo_id: str
    private: bool
    kind: str
    """card.TRACES, card.PAIRS or card.EVALUATION."""
    message: str
    """Of the commit."""
    files: dict[str, Path | bytes] = field(repr=False)
    """Path in the repository -> the file here, or what is sent in its place. The card is among them."""

    @property
    def card(self) -> str:
        return self.files[CARD_FILE].decode()

    def num_bytes(self, name: str) -> int:
        content = self.files[name]
        return len(content) if isinstance(content, bytes) else content.stat().st_size


def publication_of(run_dir: Path, repo_id: str, private: bool = False, license_id: str | None = None) -> Publication:
    """What is published of a finished run. Asks nobody.

    Raises RecipeError if the run is not done, is of a step that leaves no data, or is not whole.
    """
    _check_repo_id(repo_id)
    record = _finished_record(run_dir)
    step = record["step"]
    if step not in STEPS:
        stages = ", ".join(_publishable_stages(run_dir))
        hint = f"; name one of its stages ({stages})" if stages else ""
        raise RecipeError(f"{run_dir}: step {step}: only runs of {', '.join(STEPS)} can be published{hint}")
    pipeline = _pipeline_of(run_dir)
    counts = _json_of(run_dir / COUNTS_OF_TRACES[step]) if step in COUNTS_OF_TRACES else {}
    scores = _json_of(run_dir / SCORES_FILE) if step == "evaluate" else {}
    reports = _decontamination_of(run_dir, record)
    names = names_of_paths(run_dir, record, pipeline, scores, reports)
    if step == "evaluate":
        tables = _tables_of_scores(run_dir, scores, private)
    else:
        tables = _tables_of_traces(run_dir, counts, are_pairs=card.KINDS.get(step) == card.PAIRS)
    wanted = paths_to_look_for(record, names)
    files: dict[str, Path | bytes] = {
        str(file.relative_to(run_dir)): _readable(lambda table: table_to_send(table, wanted, names), file)
        for config in tables
        for file in sorted(run_dir.glob(config.data_files))
    }
    if step == "evaluate":
        files[SCORES_FILE] = (json.dumps(_shown_scores(scores, names), indent=2) + "\n").encode()
    facts = Facts(
        repo_id=repo_id,
        license_id=license_id,
        record=without_paths(record, names),
        stage=run_dir.resolve().name if pipeline else None,
        pipeline=without_paths(pipeline, names),
        command=card.command_of(run_dir.resolve().parent if pipeline else run_dir.resolve(), names),
        configs=tables,
        counts=counts,
        scores=_shown_scores(scores, names),
        decontamination=without_paths(reports, names),
    )
    return Publication(
        repo_id=repo_id,
        private=private,
        kind=facts.kind,
        message=f"{facts.title}, recipe {str(record['recipe_sha256'])[:12]}, seed {record['seed']}",
        files={CARD_FILE: card.render(facts).encode(), **files},
    )


def _check_repo_id(repo_id: str) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
        is_valid = repo_id.count("/") == 1
    except HFValidationError:
        is_valid = False
    if not is_valid:
        raise RecipeError(
            f"TO {repo_id}: not a name on the Hub; write user/name, of letters, digits, '-', '_' and '.', at most 96"
        )


def _finished_record(run_dir: Path) -> dict[str, Any]:
    try:
        record = read_record(run_dir)
    except ValueError as error:
        raise RecipeError(f"{error}; name the directory of another run") from None
    if record is None:
        raise RecipeError(f"{run_dir}: no run ({FILE_NAME} is missing); name a run directory, e.g. runs/…/latest")
    if record["status"] != "done":
        raise RecipeError(f"{run_dir}: its status is {record['status']}; only a run that is done can be published")
    return record


def _publishable_stages(run_dir: Path) -> list[str]:
    """The stages, of a pipeline, that can be published; none of another run."""
    folders = [file.parent for file in sorted(run_dir.glob(f"*/{FILE_NAME}")) if "." not in file.parent.name]
    records = {folder.name: tolerant(read_record, folder, []) or {} for folder in folders}
    return [name for name, record in records.items() if record.get("step") in STEPS]


def _pipeline_of(run_dir: Path) -> dict[str, Any]:
    """The record of the pipeline that the run is a stage of; {} if it is none, or if its pipeline has none yet."""
    folder = run_dir.resolve().parent
    record = tolerant(read_record, folder, []) if (folder / RECIPE_FILE).exists() else None
    return record if record and record.get("step") == "pipeline" else {}


def _json_of(file: Path) -> dict[str, Any]:
    try:
        return json_object(file)
    except (OSError, ValueError) as error:
        reason = "missing" if isinstance(error, FileNotFoundError) else f"cannot be read ({error})"
        raise RecipeError(f"{file}: {reason}, so the run is not whole; start it again") from None


def _decontamination_of(run_dir: Path, record: Mapping[str, Any]) -> dict[str, Any]:
    """What was looked for in benchmarks -> its report: of the run, and of folders of data that it sampled."""
    folders = {"what is published here": run_dir, f"`{KEPT}/`": run_dir / KEPT}
    for index, source in enumerate(record["recipe"].get("data") or []):
        if source.get("path") and is_absolute(source["path"]):
            folders[f"`data.{index}`, before it was sampled"] = Path(source["path"])
    return {
        name: _json_of(folder / REPORT_FILE) for name, folder in folders.items() if (folder / REPORT_FILE).is_file()
    }


def _tables_of_traces(run_dir: Path, counts: Mapping[str, Any], are_pairs: bool) -> list[Config]:
    """A config for kept/ and one for prompts/, which pairs have not; nothing kept gives none.

    Raises RecipeError if rows are missing.
    """
    expected = {KEPT: counts.get("kept"), PROMPTS: counts.get("prompts")}
    if are_pairs:
        del expected[PROMPTS]
    configs = []
    for name, num_expected in expected.items():
        config = _config(run_dir, name, f"{name}/*.parquet")
        if config.num_rows != num_expected:
            raise RecipeError(
                f"{run_dir / name}: {config.num_rows} rows, where {num_expected} were counted; the run is not whole"
            )
        if config.num_rows:
            configs.append(config)
    if not configs:
        raise RecipeError(f"{run_dir}: nothing was sampled, so there is nothing to publish")
    return configs


def _tables_of_scores(run_dir: Path, scores: Mapping[str, Any], private: bool) -> list[Config]:
    """A config for each pair of model and benchmark. Raises RecipeError if answers are missing, or not to be shown."""
    configs: list[Config] = []
    for label, score in scores.items():
        for benchmark in score["benchmarks"]:
            if benchmark in NOT_TO_BE_SHOWN and not private:
                raise RecipeError(
                    f"{run_dir}: {benchmark}: its problems are not to be put on the web "
                    f"({NOT_TO_BE_SHOWN[benchmark]}), and stand beside the answers; publish with --private"
                )
            name = f"{label}-{benchmark}"
            if not (run_dir / "completions" / f"{name}.parquet").is_file():
                raise RecipeError(f"{run_dir}/completions/{name}.parquet: missing; the run is not whole")
            as_folder = "".join("_" if letter in BAD_IN_CONFIG_NAMES else letter for letter in name)
            configs.append(_config(run_dir, as_folder, f"completions/{glob.escape(name)}.parquet"))
    if not configs:
        raise RecipeError(f"{run_dir / SCORES_FILE}: no score in it, so there is nothing to publish")
    return configs


def _config(run_dir: Path, name: str, data_files: str) -> Config:
    files = sorted(run_dir.glob(data_files))
    metadata = [_readable(pyarrow.parquet.read_metadata, file) for file in files]
    return Config(
        name=name,
        data_files=data_files,
        num_rows=sum(each.num_rows for each in metadata),
        schema=metadata[0].schema.to_arrow_schema() if metadata else None,
    )


def _readable(read: Callable[[Path], Content], file: Path) -> Content:
    """What `read` makes of a table. Raises RecipeError if it is torn."""
    try:
        return read(file)
    except (OSError, pyarrow.ArrowException) as error:
        raise RecipeError(f"{file}: cannot be read ({str(error).splitlines()[0]}); the run is not whole") from None


def _shown_scores(scores: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The scores without paths, and without the address of the server that answered: that is nobody else's."""
    shown = without_paths(scores, names)
    for score in shown.values():
        if "endpoint" in score:
            score["endpoint"] = {"model": score["endpoint"].get("model")}
    return shown
