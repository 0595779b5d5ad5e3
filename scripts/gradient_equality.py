"""How far the gradient of an optimizer step is from the papers' and from TRL's, by loss type and by what is saved.

    python scripts/gradient_equality.py [--losses grpo dapo]

Trains the tests' cases (tests/grpo_cases.py): for every loss type without, with half and with only dead groups, each
without and with both kinds of KL; how rollouts and steps lie to each other and the rest is drawn. A cell has the norm
of the difference over the norm, at the worst step of all of these; in float64, and in float32 with TRL's own kernel,
where every step of ours begins with the weights that stock's had. "papers" is stock's against the float64 reference
(tests/grpo_reference.py), the columns after it are ours against stock's. The last line is one JSON object.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import torch
import trl
from grpo_cases import DEAD, DIVERGENCES, LOSSES, SAVINGS, Case, drawn_case, run_case, savings_of
from trainers_of_tests import from_reference, from_run, write_model

from open_r1.grpo_trainer import GRPOTrainer

NOTHING = {saving: f"no {saving}" for saving in SAVINGS}
SAVED: dict[str, Case] = {
    "nothing": NOTHING,
    **{saving: NOTHING | {saving: saving} for saving in SAVINGS},
    "all": {saving: saving for saving in SAVINGS},
}


def worst_differences(loss: str, model: Path, output: Path, float64: bool) -> dict[str, float]:
    """The worst of all cases: "papers" for stock, and for what ours saves."""
    worst = dict.fromkeys(["papers", *SAVED], 0.0)
    for dead in DEAD:
        for divergence in DIVERGENCES:
            case = drawn_case(loss=loss, dead=dead, divergence=divergence)
            stock = run_case(trl.GRPOTrainer, case, model, output, float64=float64)
            worst["papers"] = max(worst["papers"], from_reference(stock)[0])
            for name, saved in SAVED.items():
                follow = None if float64 else stock
                savings = savings_of(saved)
                ours = run_case(GRPOTrainer, case, model, output, float64=float64, follow=follow, savings=savings)
                worst[name] = max(worst[name], from_run(ours, stock)[0])
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    columns = ["papers", *SAVED]
    table: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model")
        for dtype in ("float64", "float32"):
            print(f"| {dtype} | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
            table[dtype] = {}
            for loss in arguments.losses:
                worst = worst_differences(loss, model, Path(folder) / "runs", dtype == "float64")
                table[dtype][loss] = worst
                print(f"| {loss} | {' | '.join(f'{worst[name]:.1e}' for name in columns)} |", flush=True)
            print()
    of_ours = {dtype: max(row[name] for row in rows.values() for name in SAVED) for dtype, rows in table.items()}
    of_stock = {dtype: max(row["papers"] for row in rows.values()) for dtype, rows in table.items()}
    print(json.dumps({"ours_to_stock": of_ours, "stock_to_papers": of_stock, "by_loss": table}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
