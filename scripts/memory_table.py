"""What the recipes of a folder need of a GPU's memory, computed -> the table in the folder's README.

    python scripts/memory_table.py recipes/qwen2.5-1.5b-24gb            writes the table between its markers
    python scripts/memory_table.py recipes/qwen2.5-1.5b-24gb --check    only says whether the README shows it

The folder's name ends with the size of the GPU (24gb); it holds sft.yaml and grpo.yaml. Nothing is loaded: the numbers
follow from the architecture and the recipe. What one decoder layer keeps for its backward pass is a formula that
tests/test_gpu_recipes.py holds against what autograd keeps. Upper bounds where a term depends on the machine; the
layer is counted without what liger's kernels save.

Dimensions: H hidden, I intermediate, K key/value heads x head size, L layers, V vocabulary, T tokens of one forward.
"""

import argparse
import re
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

from open_r1.check import ACCELERATE_CONFIGS
from open_r1.recipe import Recipe, is_path, load_recipe
from open_r1.recipe.trainer_fields import trainer_value

BEGIN, END = "<!-- memory: scripts/memory_table.py -->", "<!-- end of memory -->"
GIB = 2**30
HEAD_TILE_VALUES = 4096 * 32768  # TRL's chunked log-prob head computes so many logits at a time
ZERO_BUCKET_VALUES = 500_000_000  # DeepSpeed's reduce_bucket_size
# Assumed, not computed: CUDA's context, libraries' workspaces, fragmentation; vLLM's workspace and CUDA graphs.
RESERVE_GIB, VLLM_WORKSPACE_GIB = 1.5, 2.0


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Qwen2.5 model, as its config.json gives them."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    tied: bool
    """Input and output embeddings are the same weights."""

    @property
    def key_values(self) -> int:
        return self.hidden // self.heads * self.key_value_heads

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the linear layers of one decoder layer: q, k, v, o, gate, up, down."""
        h, i, k = self.hidden, self.intermediate, self.key_values
        return [(h, h), (h, k), (h, k), (h, h), (h, i), (h, i), (i, h)]

    @property
    def num_parameters(self) -> int:
        biases_and_norms = self.hidden + 2 * self.key_values + 2 * self.hidden
        layer = sum(inputs * outputs for inputs, outputs in self.linears) + biases_and_norms
        return self.layers * layer + self.hidden + self.vocabulary * self.hidden * (1 if self.tied else 2)

    def num_lora_parameters(self, rank: int) -> int:
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.linears)

    def layer_bytes_per_token(self, residual_bytes: int) -> int:
        """What one decoder layer keeps per token for its backward pass, but for its input and its weights.

        bf16 matrix products; norms in fp32. Adapters keep the inputs that their frozen linear layers need not.
        """
        h, i, k = self.hidden, self.intermediate, self.key_values
        return 26 * h + 8 * k + 8 * i if residual_bytes == 4 else 20 * h + 6 * k + 8 * i


ARCHITECTURES = {
    "Qwen/Qwen2.5-1.5B": Architecture(1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": Architecture(1536, 8960, 28, 12, 2, 151936, tied=True),
    "Qwen/Qwen2.5-7B": Architecture(3584, 18944, 28, 28, 4, 152064, tied=False),
}


def memory(recipe: Recipe, model_name: str, gpu_gib: int) -> dict[str, float]:
    """Row of the table -> GiB on each GPU (`completions at once` is a count), without rows that mean nothing here."""
    architecture = ARCHITECTURES[model_name]
    config = yaml.safe_load((ACCELERATE_CONFIGS / f"{recipe.hardware.accelerate}.yaml").read_text(encoding="utf-8"))
    sharded_over = recipe.hardware.num_processes if config["distributed_type"] == "DEEPSPEED" else 1  # ZeRO-2
    copied_by_ddp = config["distributed_type"] == "MULTI_GPU"
    lora = recipe.model.lora
    parameters = architecture.num_parameters
    trained = architecture.num_lora_parameters(lora.r) if lora else parameters
    autocast = sharded_over == 1 and recipe.model.dtype == "float32"
    weight_bytes = 4 if autocast else 2
    rows = recipe.trainer["per_device_train_batch_size"]
    # trl.SFTTrainer with packing makes one row of a batch; in GRPO a row is a prompt and its completion
    length = rows * recipe.trainer["max_length"] if recipe.step == "sft" else recipe.trainer["vllm_max_model_length"]
    num_tokens = length if recipe.step == "sft" else rows * length
    flash = recipe.model.attn_implementation == "flash_attention_2"

    gib: dict[str, float] = {"weights": parameters * weight_bytes + (4 * trained if lora else 0)}
    if sharded_over > 1:
        gib["gradients"] = 6 * trained / sharded_over + 2 * ZERO_BUCKET_VALUES
        gib["optimizer"] = 12 * trained / sharded_over
    else:
        gib["bf16 copies"] = 2 * (trained + (parameters / architecture.layers if lora else 0))
        gib["gradients"] = 4 * trained * (2 if copied_by_ddp else 1)
        gib["optimizer"] = 8 * trained
    if recipe.step == "grpo" and not lora and trainer_value("grpo", recipe.trainer, "beta"):
        gib["reference model"] = parameters * weight_bytes
    held = sum(gib[row] for row in ("weights", "optimizer", "reference model") if row in gib)
    layer = architecture.layer_bytes_per_token(weight_bytes) + 6 * architecture.intermediate
    gib["layer inputs"] = num_tokens * architecture.hidden * weight_bytes * architecture.layers
    gib["one layer"] = num_tokens * layer
    if not flash:
        gib["attention mask"] = 3 * length * num_tokens
    head_gradient = 0 if lora else 4 * architecture.vocabulary * architecture.hidden
    gib["LM head"] = 2 * HEAD_TILE_VALUES + head_gradient + 14 * num_tokens * architecture.hidden
    gib["reserve"] = RESERVE_GIB * GIB
    gib["training, in all"] = sum(gib.values())
    if recipe.step == "grpo":
        share = recipe.trainer["vllm_gpu_memory_utilization"] * gpu_gib * GIB
        if not recipe.trainer["vllm_enable_sleep_mode"]:
            gib["training, in all"] += share
        key_value_bytes_per_token = 2 * 2 * architecture.layers * architecture.key_values
        cache = share - 2 * parameters - VLLM_WORKSPACE_GIB * GIB
        gib["vLLM's share"] = share
        gib["KV cache"] = cache
        gib["sampling, in all"] = held + share + RESERVE_GIB * GIB
        gib["completions at once"] = cache / key_value_bytes_per_token / length * GIB
    return {row: value / GIB for row, value in gib.items()}


FORMULAS = {
    "weights": "parameters x 4 bytes; 2 under ZeRO; adapters 4",
    "bf16 copies": "trained weights x 2 bytes, kept by autocast; LoRA: and the frozen ones of one layer",
    "gradients": "trained weights x 4 bytes; ZeRO-2 on N GPUs: x (2 + 4) / N, and a bucket of 5e8 x 2 bytes",
    "optimizer": "trained weights x 8 bytes (AdamW); ZeRO-2: x (8 + 4) / N, with the fp32 weights",
    "reference model": "as the weights; only with beta > 0 and without LoRA",
    "layer inputs": "T x H x L x bytes of the residual stream: what activation checkpointing keeps",
    "one layer": "T x (26 H + 8 K + 8 I) bytes, recomputed, + 6 I for gradients; ZeRO: 20 H + 6 K",
    "attention mask": "T x length x 3 bytes (bool, and bf16 for the kernel); none with flash attention",
    "LM head": "4096 x 32768 x 2 bytes of logits, + V x H x 4 if it is trained, + 14 T x H",
    "reserve": "assumed: CUDA context, libraries, fragmentation",
    "training, in all": "the above",
    "vLLM's share": "vllm_gpu_memory_utilization x the GPU, while sampling (it sleeps while training)",
    "KV cache": "of that: less parameters x 2 bytes, less 2 GiB assumed for vLLM's workspace",
    "completions at once": "KV cache / (4 L x K bytes a token) / vllm_max_model_length: so many of full length",
    "sampling, in all": "weights, optimizer, reference model, vLLM's share, reserve",
}


def table(folder: Path) -> str:
    """The Markdown table of the folder's two recipes."""
    gpu_gib = gpu_gib_of(folder)
    sft, grpo = (load_recipe(folder / f"{step}.yaml") for step in ("sft", "grpo"))
    columns = [
        memory(recipe, sft.model.name if is_path(recipe.model.name) else recipe.model.name, gpu_gib)
        for recipe in (sft, grpo)
    ]
    lines = ["| GiB on each GPU | sft | grpo | computed as |", "|---|---|---|---|"]
    for row, formula in FORMULAS.items():
        if any(row in column for column in columns):
            cells = [f"{column[row]:.1f}" if row in column else "–" for column in columns]
            if row == "completions at once":
                cells = [str(int(column[row])) if row in column else "–" for column in columns]
            if row.endswith("in all"):
                row, cells = f"**{row}**", [cell if cell == "–" else f"**{cell}**" for cell in cells]
            lines.append(f"| {row} | {' | '.join(cells)} | {formula} |")
    tokens = [_num_tokens(recipe) for recipe in (sft, grpo)]
    lines.append(f"| the GPU | {gpu_gib} | {gpu_gib} | |")
    lines += ["", f"T is {tokens[0]:,} tokens in sft, {tokens[1]:,} in grpo."]
    return "\n".join(lines)


def gpu_gib_of(folder: Path) -> int:
    """The memory of one GPU, as the folder's name says."""
    return int(re.search(r"(\d+)gb$", folder.resolve().name)[1])


def _num_tokens(recipe: Recipe) -> int:
    key = "max_length" if recipe.step == "sft" else "vllm_max_model_length"
    return recipe.trainer["per_device_train_batch_size"] * recipe.trainer[key]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    readme = arguments.folder / "README.md"
    before, found_begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    between, found_end, after = rest.partition(END)
    if not (found_begin and found_end):
        raise SystemExit(f"{readme}: no place for the table; put `{BEGIN}` and `{END}` where it is to stand")
    if arguments.check:
        shown = between.strip() == table(arguments.folder)
        print(f"{readme}: {'shows' if shown else 'does not show'} what its recipes need")
        return 0 if shown else 1
    readme.write_text(f"{before}{BEGIN}\n{table(arguments.folder)}\n{END}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
