"""Direct preference optimization: the policy learns from pairs of a better and a worse answer, without a reward model.

Rafailov et al., arXiv 2305.18290, equation 7: the loss is -log sigmoid of beta times the difference of two log-ratios
of the policy to the one that it began as, the chosen answer's and the rejected one's. Tulu 3 (arXiv 2411.15124, section
5) divides each by its answer's length: `trainer.loss_type: [sigmoid_norm]`.
"""

from pathlib import Path

import trl
from accelerate import PartialState

from open_r1 import data, modeling, training
from open_r1.recipe import Recipe
from open_r1.step_process import run_step
from open_r1.training.checkpoints import WholeCheckpoints
from open_r1.training.pairs import check_left, check_rendering, num_cut_off


class DPOTrainer(WholeCheckpoints, trl.DPOTrainer):
    """trl.DPOTrainer with checkpoints that are whole or not there, which tells what it leaves out of the pairs.

    Raises RecipeError if it has left none.
    """

    def __init__(self, recipe: Recipe, **keys):
        self.recipe = recipe
        super().__init__(**keys)

    def _prepare_dataset(self, dataset, processing_class, args, dataset_name):
        prepared = super()._prepare_dataset(dataset, processing_class, args, dataset_name)
        section = "data" if dataset_name == "train" else "eval_data"
        if (most := args.max_length) is not None:
            why = f"their prompts alone fill trainer.max_length ({most} tokens)"
            check_left(self.recipe, section, len(dataset), len(prepared), why)
            if (num_cut := num_cut_off(prepared, most)) and PartialState().is_main_process:
                answers = f"{num_cut} of {2 * len(prepared)} answers"
                print(f"{section}: {answers} are cut off at trainer.max_length ({most} tokens)")
        return prepared


def dpo(recipe: Recipe, run_dir: Path) -> None:
    """Trains the recipe's policy on its pairs and leaves it in `run_dir/model`."""
    training.begin(recipe)
    tokenizer = modeling.load_tokenizer(recipe)
    sections = ["data", "eval_data"] if recipe.eval_data else ["data"]
    pairs_of = {section: data.load_data(recipe, section=section) for section in sections}
    for pairs in pairs_of.values():
        check_rendering(recipe, pairs, tokenizer, after_generation_prompt=True)
    arguments = trl.DPOConfig(**training.trainer_arguments(recipe, run_dir))
    # Without adapters to switch off, and without its log-probabilities on disk, the policy of the beginning stays. TRL
    # would load it anew by its name, and not at model.revision.
    keeps_reference = recipe.model.lora is None and not arguments.precompute_ref_log_probs
    model = modeling.load_model(recipe)
    trainer = DPOTrainer(
        recipe,
        model=model,
        ref_model=modeling.load_model(recipe) if keeps_reference else None,
        args=arguments,
        train_dataset=pairs_of["data"],
        eval_dataset=pairs_of.get("eval_data"),
        processing_class=tokenizer,
        peft_config=modeling.lora_config(recipe, model),
    )
    training.check_eos_is_trained(recipe, trainer, tokenizer)
    training.train(trainer, recipe, run_dir, tokenizer)


if __name__ == "__main__":
    run_step(dpo)
