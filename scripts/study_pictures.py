"""The records of a study -> its pictures: scores of every model, and what changed while RL trained.

    python scripts/study_pictures.py recipes/tiny-r1/results.json recipes/tiny-r1

Writes scores.png (a bar a model, a dot a seed) and curves.png (accuracy on training prompts and tokens an answer over
the steps of each RL run, mean of the seeds and the range between them) into the folder. Reads what
scripts/results_table.py wrote, and no run.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, and a way of drawing each: no two runs are told apart by colour alone.
STYLES = [(c, s) for s in ("-", "--", ":") for c in ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")]
INK, GREY = "#2B2F36", "#C9CDD3"
PANELS = {"accuracy": ("right answers to training prompts (%)", 100), "tokens": ("tokens an answer", 1)}
SMOOTHING_STEPS = 5


def scores_of(runs: list[dict]) -> Figure:
    """pass@1 of each model: the mean as a bar, each seed as a dot; a model that a seed was refused for has no bar."""
    labels = list(runs[0]["models"])
    figure = Figure(figsize=(8.2, 1.0 + 0.32 * len(labels)), layout="constrained")
    axes = figure.subplots()
    for position, label in enumerate(labels):
        percent = [100 * run["models"][label]["pass@1"] for run in runs if run["models"][label]["pass@1"] is not None]
        if len(percent) == len(runs):
            axes.barh(position, np.mean(percent), height=0.6, color=STYLES[0][0], alpha=0.35)
            axes.text(103, position, f"{np.mean(percent):.1f}", va="center", ha="left", fontsize=8.5, color=INK)
        axes.plot(percent, [position] * len(percent), "o", color=STYLES[0][0], markersize=4)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlim(0, 112)
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel(f"pass@1 (%), {len(runs)} seeds, mean on the right", fontsize=9, color=INK)
    _tidy(axes)
    return figure


def curves_of(runs: list[dict]) -> Figure:
    """A panel for each of PANELS: over the steps of RL the mean of the seeds, and the range between them."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    names = [name for name in runs[0]["curves"] if all(run["curves"].get(name) for run in runs)]
    for axes, (key, (title, scale)) in zip(figure.subplots(1, len(PANELS)), PANELS.items(), strict=True):
        for name, (color, style) in zip(names, STYLES, strict=False):
            curves = [smoothed(run["curves"][name][key]) * scale for run in runs if key in run["curves"][name]]
            if not curves:
                continue
            num_steps = min(map(len, curves))
            curves_SN = np.stack([curve[:num_steps] for curve in curves])  # S seeds, N steps
            steps = np.arange(1, num_steps + 1)
            axes.plot(steps, curves_SN.mean(axis=0), style, color=color, linewidth=1.6, label=name)
            axes.fill_between(steps, curves_SN.min(axis=0), curves_SN.max(axis=0), color=color, alpha=0.12, linewidth=0)
        axes.set_title(title, loc="left", fontsize=10, color=INK)
        axes.set_xlabel("optimizer step", fontsize=9, color=INK)
        axes.set_ylim(bottom=0)
        _tidy(axes)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right center", frameon=False, fontsize=8.5)
    return figure


def smoothed(values: list[float]) -> np.ndarray:
    """A centred running mean over SMOOTHING_STEPS; at the ends over those that there are."""
    kernel = np.ones(SMOOTHING_STEPS)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#E8EAED", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, color=GREY, labelcolor=INK)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    runs = json.loads(arguments.results.read_text(encoding="utf-8"))
    for name, draw in {"scores": scores_of, "curves": curves_of}.items():
        file = arguments.folder / f"{name}.png"
        draw(runs).savefig(file, dpi=110)
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
