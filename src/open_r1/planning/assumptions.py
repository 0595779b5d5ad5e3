"""What a plan takes for granted, each with its source, each settable on the command line (`--compute-share 0.4`).

None of them was fitted to the runs that the plan is compared with.
"""

from dataclasses import dataclass, field, fields
from typing import Any


def _assumed(default: float | None, meaning: str, source: str) -> Any:
    return field(default=default, metadata={"meaning": meaning, "source": source})


@dataclass(frozen=True)
class Assumptions:
    """Every number of a plan that neither the recipe nor arithmetic gives."""

    compute_share: float = _assumed(
        0.33,
        "of the GPU's FLOP/s that training, log-probabilities and prefill reach, exchanges between GPUs included",
        "torchtitan, Llama 3.1 8B on 8 and 128 H100 under FSDP without torch.compile, 2024-12: 33 %",
    )
    bandwidth_share: float = _assumed(
        0.6,
        "of the memory's bandwidth that decoding reaches",
        "open-source-ai.tech, glossary, model bandwidth utilization: 60 to 85 %, a rule of thumb; its lower end",
    )
    seconds_per_layer: float = _assumed(
        0.001,
        "that transformers' generate takes for a layer of a decoding step beside memory and arithmetic",
        "assumed; a vLLM engine replays its steps as CUDA graphs and is given none",
    )
    mean_completion_share: float = _assumed(
        0.6,
        "of max_completion_length that a sampled completion has in the mean",
        "Fireworks' cost estimator for RL fine-tuning (docs.fireworks.ai)",
    )
    mean_completion_tokens: float | None = _assumed(None, "instead of that share", "your own runs")
    mean_prompt_tokens: float = _assumed(256, "of a prompt to sample from", "assumed")
    longest_prompt_tokens: int = _assumed(1024, "where no key limits prompt and completion together", "assumed")
    rows: int | None = _assumed(None, "of the data, where they are not known", "the data set's card")
    tokens_per_row: float | None = _assumed(None, "of supervised data, prompt and answer", "the data set's card")
    kept_share: float = _assumed(0.5, "of a teacher's traces that the rewards verify", "assumed")
    pair_share: float = _assumed(0.5, "of prompts that give a pair of a better and a worse answer", "assumed")
    rubric_tokens: float = _assumed(
        500, "of a request to a judge beside what was asked and answered: system message, principles, form", "assumed"
    )
    mean_verdict_tokens: float | None = _assumed(
        None, "of a verdict, instead of the share of its limit", "your own runs"
    )
    weight_sync_gb_per_second: float = _assumed(10, "at which weights go to the engine before each rollout", "assumed")
    start_seconds: float = _assumed(300, "to start a run on GPUs: imports, loading, the engine's graphs", "assumed")

    def stated(self) -> list[str]:
        """One line for each that has a value: what it is and where it is from."""
        lines = []
        for each in fields(self):
            value = getattr(self, each.name)
            if value is not None:
                source = each.metadata["source"] if value == each.default else "set by you"
                lines.append(f"{each.name} {value:g}: {each.metadata['meaning']} ({source})")
        return lines
