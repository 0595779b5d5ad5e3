"""A reward model: a number for each answer, learned from pairs of a better and a worse one.

The better answer of a pair wins with the probability sigmoid(reward of it - reward of the other), as in Bradley and
Terry's model of comparisons; the loss is its negative logarithm (Ouyang et al., arXiv 2203.02155, equation 1). R1's
helpful reward model has lr 6e-6, batch 256, one epoch, 8,192 tokens (Nature s41586-025-09422-z, Methods).
"""

import json
from pathlib import Path

import trl

from open_r1 import data, modeling, training
from open_r1.feedback.held_out_pairs import report_on
from open_r1.feedback.reward_models import check_padding
from open_r1.recipe import Recipe
from open_r1.run_record import REWARD_MODEL_REPORT
from open_r1.step_process import run_step
from open_r1.training.checkpoints import WholeCheckpoints
from open_r1.training.pairs import check_left, check_rendering
from open_r1.whole_files import whole


class RewardTrainer(WholeCheckpoints, trl.RewardTrainer):
    """trl.RewardTrainer with checkpoints that are whole or not there."""


def reward_model(recipe: Recipe, run_dir: Path) -> None:
    """Trains a reward model on the recipe's pairs, leaves it in `run_dir/model`, and what it is worth beside it."""
    training.begin(recipe)
    tokenizer = modeling.load_tokenizer(recipe)
    arguments = trl.RewardConfig(**training.trainer_arguments(recipe, run_dir))  # first: see training.fine_tune
    check_padding(recipe, tokenizer, arguments.pad_token)
    pairs_of = {section: data.load_data(recipe, section=section) for section in ("data", "eval_data")}
    for pairs in pairs_of.values():
        check_rendering(recipe, pairs, tokenizer, after_generation_prompt=False)
    model = modeling.load_reward_model(recipe)
    trainer = RewardTrainer(
        model=model,
        args=arguments,
        train_dataset=pairs_of["data"],
        eval_dataset=pairs_of["eval_data"],
        processing_class=tokenizer,
        peft_config=modeling.lora_config(recipe, model, "SEQ_CLS"),
    )
    for section, left in (("data", trainer.train_dataset), ("eval_data", trainer.eval_dataset)):
        why = f"they are longer than trainer.max_length ({arguments.max_length} tokens)"
        check_left(recipe, section, len(pairs_of[section]), len(left), why)
    training.train(trainer, recipe, run_dir, tokenizer)
    report = report_on(*rewards_of_pairs(trainer))
    if trainer.is_world_process_zero():
        with whole(run_dir / REWARD_MODEL_REPORT) as unfinished:
            unfinished.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        correlation = report["length_correlation"]
        print(
            f"reward model: {report['accuracy']:.3f} ± {report['accuracy_stderr']:.3f} of {report['num_pairs']} "
            f"held-out pairs right, calibration error {report['calibration_error']:.3f}, correlation with length "
            f"{'–' if correlation is None else f'{correlation:+.2f}'}"
        )


def rewards_of_pairs(trainer: RewardTrainer):
    """Rewards and tokens of the P held-out pairs: four lists of numbers, chosen, rejected, and their tokens."""
    import torch

    if trainer.model_wrapped is trainer.model:  # with nothing left to train nobody has put it there
        trainer.model.to(trainer.args.device)
    trainer.model.eval()
    gathered = []
    for batch in trainer.get_eval_dataloader():
        batch = trainer._prepare_inputs(batch)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            rewards_2P = trainer.model_wrapped(**batch, use_cache=False).logits.squeeze(-1).float()
        columns_P4 = torch.stack([*rewards_2P.chunk(2), *batch["attention_mask"].sum(dim=1).chunk(2)], dim=1)
        gathered.append(trainer.accelerator.gather_for_metrics(columns_P4).cpu())
    return torch.cat(gathered).T.tolist()


if __name__ == "__main__":
    run_step(reward_model)
