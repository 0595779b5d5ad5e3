"""A step under DeepSpeed or FSDP without a GPU, started by `accelerate launch --config_file … tests/sharded_on_cpu.py`.

accelerate knows both with an accelerator alone; gloo and the CPU stand in for NCCL and CUDA. All else is as with the
config file in recipes/accelerate_configs/.
"""

import os

os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "DS_ACCELERATOR": "cpu"}

from accelerate.state import DistributedType, PartialState

from open_r1.grpo import grpo
from open_r1.sft import sft
from open_r1.step_process import run_step

PartialState._prepare_backend = lambda *arguments: ("gloo", DistributedType.MULTI_GPU)


def step(recipe, run_dir) -> None:
    """The recipe's own; raises RuntimeError if its processes were not what the config says."""
    {"sft": sft, "grpo": grpo}[recipe.step](recipe, run_dir)
    if PartialState().distributed_type not in (DistributedType.FSDP, DistributedType.DEEPSPEED):
        raise RuntimeError(f"weights were not shared out, but {PartialState().distributed_type}")


if __name__ == "__main__":
    run_step(step)
