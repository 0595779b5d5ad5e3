"""`run.json`: what a run was made of, where it ran, what it cost and what came out.

Only the launcher process writes it; the training processes that it starts never do, so no lock is needed. Every write
is a new file put in the old one's place: whoever reads sees one version or the other, never half of one.
"""

import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import yaml

from open_r1.recipe import Recipe, dump_recipe

FILE_NAME = "run.json"
PACKAGES = (
    "torch",
    "transformers",
    "trl",
    "accelerate",
    "peft",
    "datasets",
    "math-verify",
    "lighteval",
    "reasoning-gym",
    "open-r1",
)
TOOL_TIMEOUT_SECONDS = 30
HASH_CHUNK_BYTES = 1 << 20
METRICS_FILE = "metrics.jsonl"
REWARD_MODEL_REPORT = "reward_model.json"
SIGNS_OF_LIFE = (FILE_NAME, METRICS_FILE, f"*/{FILE_NAME}", f"*/{METRICS_FILE}")  # a pipeline's stages are one below


def start_record(run_dir: str | Path, recipe: Recipe, recipe_file: str, parents: list[dict[str, Any]]) -> dict:
    """The record of a run that starts now, written to run.json with status `running`.

    `parents` names the runs whose models are used: [{"name": stage, "run": directory, "weights_sha256": …}].
    A run that is taken up again keeps the seconds of its earlier attempts and the time of its first start.
    """
    run_dir = Path(run_dir)
    run_dir.mkdir(parents=True, exist_ok=True)
    earlier = read_record(run_dir) or {}
    now = _now()
    commit, dirty = git_state(Path(__file__).parent)
    record = {
        "step": recipe.step,
        "status": "running",
        "recipe_file": str(recipe_file),
        "recipe": yaml.safe_load(dump_recipe(recipe)),
        "recipe_sha256": recipe.sha256,
        "seed": recipe.seed,
        "commit": commit,
        "dirty": dirty,
        "command": sys.argv,
        "versions": _versions(),
        "hardware": _hardware(),
        "parents": parents,
        "started_at": earlier.get("started_at") or now.isoformat(),
        "attempt_started_at": now.isoformat(),
        "finished_at": None,
        "attempts": earlier.get("attempts", 0) + 1,
        "seconds": earlier.get("seconds", 0.0) + _unrecorded_seconds(run_dir, earlier),
        "cost_usd": None,
        "scores": None,
        "weights_sha256": None,
    }
    if "shares" in earlier:
        record["shares"] = earlier["shares"]  # their seconds are among those of the earlier attempts
    _write(run_dir, record)
    return record


def update_record(run_dir: str | Path, **fields: Any) -> dict:
    """The record with `fields` put over it, written. Raises FileNotFoundError if the run was never started."""
    record = read_record(run_dir)
    if record is None:
        raise FileNotFoundError(f"{Path(run_dir) / FILE_NAME}: no record to update; start_record writes the first")
    record.update(fields)
    _write(Path(run_dir), record)
    return record


def finish_record(run_dir: str | Path, status: Literal["done", "interrupted", "failed"]) -> dict:
    """The finished record, written: seconds of this attempt added, cost, scores and the weights' hash filled in.

    cost_usd is null unless the recipe gives hardware.usd_per_hour. Finishing twice counts the seconds once.
    """
    run_dir = Path(run_dir)
    record = read_record(run_dir)
    if record is None:
        raise FileNotFoundError(f"{run_dir / FILE_NAME}: no record to finish; start_record writes the first")
    now = _now()
    seconds = record.get("seconds", 0.0)
    if record.get("attempt_started_at"):
        # The clock of the wall, not a monotonic one: a record may be finished by another process than started it.
        seconds += max(0.0, (now - datetime.fromisoformat(record["attempt_started_at"])).total_seconds())
    usd_per_hour = (record["recipe"].get("hardware") or {}).get("usd_per_hour")
    scores_file = run_dir / "scores.json"
    return update_record(
        run_dir,
        status=status,
        attempt_started_at=None,
        finished_at=now.isoformat(),
        seconds=seconds,
        cost_usd=None if usd_per_hour is None else seconds / 3600 * usd_per_hour,
        scores=json.loads(scores_file.read_text(encoding="utf-8")) if scores_file.exists() else None,
        weights_sha256=weights_sha256(run_dir / "model") if _weight_files(run_dir / "model") else None,
    )


def read_record(run_dir: str | Path) -> dict | None:
    """The record of a run directory, None if it has none. Raises ValueError if run.json is not a JSON object."""
    file = Path(run_dir) / FILE_NAME
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ValueError(f"{file}: not valid JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError(f"{file}: a run record is a JSON object")
    return record


def weights_sha256(model_dir: str | Path) -> str:
    """Hash of the *.safetensors files of a model, read one after the other in order of their names.

    For a model in one file it is that file's own hash. Raises FileNotFoundError if there are none.
    """
    files = _weight_files(Path(model_dir))
    if not files:
        raise FileNotFoundError(f"{model_dir}: no *.safetensors to hash")
    return _sha256(files)


def data_sha256(folder: str | Path) -> str:
    """Hash of the *.parquet files of a folder, read one after the other in order of their names."""
    return _sha256(sorted(Path(folder).glob("*.parquet")))


def _sha256(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while chunk := stream.read(HASH_CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


def git_state(folder: str | Path) -> tuple[str | None, bool | None]:
    """The commit that `folder` is checked out at and whether anything differs from it; (None, None) outside git.

    A new file that git does not ignore counts as a difference: it may well have been imported.
    """
    # Inside a git hook these name another repository than the one that the folder lies in.
    environment = {key: value for key, value in os.environ.items() if key not in ("GIT_DIR", "GIT_WORK_TREE")}
    environment.pop("GIT_INDEX_FILE", None)
    environment["GIT_OPTIONAL_LOCKS"] = "0"
    commit = _output_of(["git", "-C", str(folder), "rev-parse", "--verify", "--quiet", "HEAD"], environment)
    if not commit:
        return None, None
    changes = _output_of(["git", "-C", str(folder), "status", "--porcelain"], environment)
    return commit.strip(), None if changes is None else bool(changes.strip())


def _now() -> datetime:
    return datetime.now(UTC)


def _unrecorded_seconds(run_dir: Path, record: dict) -> float:
    """Seconds of an attempt that was killed before it could finish its record, counted to its last sign of life."""
    if not record.get("attempt_started_at"):
        return 0.0
    started = datetime.fromisoformat(record["attempt_started_at"]).timestamp()
    last_sign = max(file.stat().st_mtime for pattern in SIGNS_OF_LIFE for file in run_dir.glob(pattern))
    return max(0.0, last_sign - started)


def _write(run_dir: Path, record: dict) -> None:
    temporary = run_dir / f".{FILE_NAME}.{os.getpid()}"
    try:
        with temporary.open("w", encoding="utf-8") as stream:
            json.dump(record, stream, indent=2, ensure_ascii=False, default=str)
            stream.write("\n")
            stream.flush()
            os.fsync(stream.fileno())  # else a crash of the machine can leave an empty file under the final name
        os.replace(temporary, run_dir / FILE_NAME)
    finally:
        temporary.unlink(missing_ok=True)


def _weight_files(model_dir: Path) -> list[Path]:
    return sorted(model_dir.glob("*.safetensors"))


def _versions() -> dict[str, str]:
    """Version of python and of every package of PACKAGES that is installed."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _hardware() -> dict[str, Any]:
    """CPU model, usable cores, memory in GB (10^9 bytes; None if unknown) and the names of the GPUs."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "gpus": _gpu_names(),
    }


def _cpu_model() -> str | None:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine() or None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _gpu_names() -> list[str]:
    if shutil.which("nvidia-smi") is None:
        return []
    names = _output_of(["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"])
    return [name.strip() for name in (names or "").splitlines() if name.strip()]


def _output_of(command: list[str], environment: dict[str, str] | None = None) -> str | None:
    """Standard output of a command, None if it is missing, fails or hangs: a record must never stop a run."""
    try:
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, check=True, timeout=TOOL_TIMEOUT_SECONDS
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return None
