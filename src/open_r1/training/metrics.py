"""metrics.jsonl, one line a log, and a progress bar with the few numbers that one watches."""

import json
from pathlib import Path

from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from open_r1.run_record import METRICS_FILE

PROGRESS_METRICS = {"reward": "reward", "completions/mean_length": "tokens", "loss": "loss"}


class MetricsWriter(TrainerCallback):
    """Appends each log as one JSON line; on resuming, drops the lines and tables that will be written again."""

    def __init__(self, run_dir: Path):
        self.run_dir, self.file = run_dir, run_dir / METRICS_FILE

    def on_train_begin(self, args, state, control, **kwargs):
        if not state.is_world_process_zero:
            return
        if self.file.exists():
            lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            # Nothing is kept where nothing was: an evaluation before the first step is made again.
            last_step = state.global_step or -1
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= last_step]
            unfinished = self.file.with_suffix(".part")  # a kill must not take the lines that are kept
            unfinished.write_text("".join(kept), encoding="utf-8")
            unfinished.replace(self.file)
        for table in (self.run_dir / "completions").glob("completions_*.parquet"):
            if int(table.stem.partition("_")[2]) > state.global_step:
                table.unlink()

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and logs and "train_runtime" not in logs:
            with self.file.open("a", encoding="utf-8") as lines:
                lines.write(json.dumps({"step": state.global_step, **logs}) + "\n")


class Progress(ProgressCallback):
    """A progress bar with the few metrics that one watches, instead of a printed dict for every log."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        if state.is_world_process_zero and self.training_bar is not None and logs:
            shown = {name: logs[key] for key, name in PROGRESS_METRICS.items() if isinstance(logs.get(key), float)}
            self.training_bar.set_postfix({name: f"{value:.3g}" for name, value in shown.items()})
