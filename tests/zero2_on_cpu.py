"""A GRPO run under DeepSpeed's ZeRO stage 2 without a GPU: `python -m torch.distributed.run … zero2_on_cpu.py RUN_DIR`.

accelerate knows DeepSpeed with an accelerator alone; gloo and the CPU stand in for NCCL and CUDA. All else is as with
recipes/accelerate_configs/zero2.yaml.
"""

import os
import sys
from pathlib import Path

os.environ |= {"ACCELERATE_USE_DEEPSPEED": "true", "ACCELERATE_DEEPSPEED_ZERO_STAGE": "2", "DS_ACCELERATOR": "cpu"}
os.environ |= {"ACCELERATE_TORCH_DEVICE": "cpu", "ACCELERATE_DEEPSPEED_ZERO3_INIT": "false"}

from accelerate.state import DistributedType, PartialState

from open_r1.grpo import grpo
from open_r1.recipe import load_recipe

PartialState._prepare_backend = lambda *args: ("gloo", DistributedType.MULTI_GPU)
run_dir = Path(sys.argv[1])
grpo(load_recipe(run_dir / "recipe.yaml"), run_dir)
if PartialState().distributed_type != DistributedType.DEEPSPEED:
    sys.exit("DeepSpeed was not used")
sys.stdout.flush()
os._exit(0)  # gloo's threads can end a process that clears up, with another exit code
