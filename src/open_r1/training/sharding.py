"""Weights that are shared out, so that no process has all of them: ZeRO stage 3 and FSDP2."""

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType


def shares_out_weights(accelerator: Accelerator) -> bool:
    """True if a process holds a share of each weight and not the whole."""
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        return accelerator.state.deepspeed_plugin.zero_stage == 3
    return accelerator.distributed_type == DistributedType.FSDP


def gathered_weights(accelerator: Accelerator, model: torch.nn.Module) -> dict[str, torch.Tensor] | None:
    """The whole weights of a wrapped model, in the main process; None where every process has them anyway.

    Every process has to call it; what the others get is of no use.
    """
    return accelerator.get_state_dict(model) if shares_out_weights(accelerator) else None
