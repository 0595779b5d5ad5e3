"""The reference model of the KL term: how it is shared out, replaced while training, saved and put back.

With ZeRO stage 3 or FSDP2 no process has all of its weights, and nothing here gathers more than one of them at a time
(but for `weights_of`, on the CPU).
"""

import contextlib
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast
from accelerate.utils.fsdp_utils import fsdp2_prepare_model
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict
from torch.distributed.fsdp import FSDPModule
from trl.trainer import grpo_trainer
from trl.trainer.callbacks import SyncRefModelCallback

from open_r1.training.sharding import shares_out_weights


@contextlib.contextmanager
def shared_out_as_the_policy() -> Iterator[None]:
    """Within it TRL shares its reference out, with FSDP2, layer by layer and with the first process's weights.

    trl.models.prepare_fsdp (1.16) wraps the model as one unit, all of which is gathered in a forward pass, and keeps in
    each process the share of what that process has loaded: nothing but in the first one. (The KL term of a policy that
    has not moved was 0.004 with it, and is 0.)
    """
    of_trl = grpo_trainer.prepare_fsdp
    grpo_trainer.prepare_fsdp = lambda model, accelerator: fsdp2_prepare_model(accelerator, model).eval()
    try:
        yield
    finally:
        grpo_trainer.prepare_fsdp = of_trl


class ReplacesReference(SyncRefModelCallback):
    """As TRL's, one parameter at a time: TRL's gathers both models as a whole under ZeRO stage 3."""

    @staticmethod
    def sync_target_model(model, target_model, alpha) -> None:
        for module in (*model.modules(), *target_model.modules()):
            if isinstance(module, FSDPModule):
                module.reshard()  # FSDP2 leaves the last layers gathered after a forward pass
        for of_policy, of_reference in zip(model.parameters(), target_model.parameters(), strict=True):
            pair = (torch.nn.ParameterList([of_policy]), torch.nn.ParameterList([of_reference]))
            SyncRefModelCallback.sync_target_model(*pair, alpha)


def weights_of(reference: torch.nn.Module, accelerator: Accelerator) -> dict[str, torch.Tensor] | None:
    """The whole weights, in the main process; None in the others. Every process has to call it."""
    weights = accelerator.get_state_dict(reference)
    return weights if accelerator.is_main_process else None


def put_weights(reference: torch.nn.Module, weights: dict[str, torch.Tensor] | None, accelerator: Accelerator) -> None:
    """Puts back what `weights_of` gave, in all processes; only the main one has to have it."""
    if not shares_out_weights(accelerator):
        reference = accelerator.unwrap_model(reference)
        if weights is not None:
            reference.load_state_dict(weights)
        for weight in reference.parameters():
            weight.data = broadcast(weight.data)
    elif accelerator.distributed_type == DistributedType.DEEPSPEED:
        import deepspeed

        for name, parameter in accelerator.unwrap_model(reference).named_parameters():
            with deepspeed.zero.GatheredParameters(parameter, modifier_rank=0):
                if weights is not None:
                    parameter.data.copy_(weights[name])
    else:
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
        set_model_state_dict(reference, weights or {}, options=options)
