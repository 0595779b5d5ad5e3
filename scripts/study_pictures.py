"""The records of a study -> its pictures: scores of every model, and what changed while RL trained.

    python scripts/study_pictures.py recipes/tiny-r1/results.json recipes/tiny-r1
    python scripts/study_pictures.py recipes/tiny-rlaif/results.json recipes/tiny-rlaif

Writes scores.png (a bar a model, a dot a seed) and curves.png (what changed over the steps of each RL run: accuracy and
format on training prompts, tokens an answer; mean of the seeds and the range between them) into the folder. Of a study
that looked at the truth on eval_data while it trained on something else it writes reward_against_truth.png instead.
Reads what scripts/results_table.py wrote, and no run.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, and a way of drawing each: no two runs are told apart by colour alone.
COLORS, LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00"), ("-", "--", "-.", ":")
STYLES = [(COLORS[i % 6], LINES[(i + i // 6) % 4]) for i in range(24)]
INK, GREY = "#2B2F36", "#C9CDD3"
PANELS = {
    "accuracy": ("right answers to training prompts (%)", 100),
    "format": ("answers in the format (%)", 100),
    "tokens": ("tokens an answer", 1),
}
SMOOTHING_ROLLOUTS = 5
PANELS_A_ROW = 2  # of the picture of reward and truth
MARKS = {"best_step": ("o", "the checkpoint that was kept"), "stopped_at": ("x", "stopped by a guard")}
MARK_STYLE = {"linestyle": "none", "fillstyle": "none", "markersize": 10, "markeredgewidth": 1.6}
# A row of panels each, by how the names of its runs begin; the last takes what is left.
ROWS = (("zero", "rl_without", "reasoning", "shuffled"), ("with_",), ("",))


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
    """A row for each of ROWS, a panel for each of PANELS: the mean of the seeds over the steps, and their range."""
    names = [name for name in runs[0]["curves"] if all(run["curves"].get(name) for run in runs)]
    rows = []
    for beginnings in ROWS:
        rows.append([name for name in names if name.startswith(beginnings)])
        names = [name for name in names if name not in rows[-1]]
    rows = [row for row in rows if row]
    figure = Figure(figsize=(11, 0.4 + 2.7 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), len(PANELS), squeeze=False, sharey="col")
    for names_of_row, axes_of_row in zip(rows, panels, strict=True):
        for axes, key in zip(axes_of_row, PANELS, strict=True):
            _draw(axes, key, {name: [run["curves"][name] for run in runs] for name in names_of_row})
        axes_of_row[-1].legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8.5)
    for axes, (title, _) in zip(panels[0], PANELS.values(), strict=True):
        axes.set_title(title, loc="left", fontsize=10, color=INK)
    for axes in panels[-1]:
        axes.set_ylim(bottom=0)  # of its whole column
        axes.set_xlabel("optimizer step", fontsize=9, color=INK)
    return figure


def _draw(axes: Axes, key: str, curves_of_runs: dict[str, list[dict[str, list[float]]]]) -> None:
    """One panel; of a run that did not log this, the legend's line alone."""
    for (name, curves), (color, style) in zip(curves_of_runs.items(), STYLES, strict=False):
        if any(key not in curve for curve in curves):
            axes.plot([], [], style, color=color, linewidth=1.6, label=name)
            continue
        num = min(len(curve["steps"]) for curve in curves)
        curves_SN = PANELS[key][1] * np.stack([smoothed(curve[key][:num]) for curve in curves])  # S seeds, N rollouts
        steps = curves[0]["steps"][:num]
        axes.plot(steps, curves_SN.mean(axis=0), style, color=color, linewidth=1.6, label=name)
        axes.fill_between(steps, curves_SN.min(axis=0), curves_SN.max(axis=0), color=color, alpha=0.12, linewidth=0)
    _tidy(axes)


def reward_against_truth_of(runs: list[dict]) -> Figure:
    """A panel a run of RL: what is wanted (left axis) and what is rewarded on eval_data.

    Thin is a seed, as far as it went; thick the mean, as far as all of them did. A ring is the checkpoint that a seed
    kept, a cross where a guard stopped it. The first run's reward has the right axis, for a reward model's scale is its
    own; other rewards are shares, as the truth is.
    """
    names = [name for name in runs[0]["evaluations"] if all(name in run["evaluations"] for run in runs)]
    first = runs[0]["evaluations"][names[0]]
    truth, reward = first["truth"], next(name for name in first["means"] if name != first["truth"])
    measured = dict.fromkeys(key for name in names for key in runs[0]["evaluations"][name]["means"])
    style_of = dict(zip(sorted(measured, key=lambda key: (key != truth, key != reward)), STYLES, strict=False))
    num_rows = math.ceil(len(names) / PANELS_A_ROW)
    figure = Figure(figsize=(11, 0.6 + 3.6 * num_rows), layout="constrained")
    grid = figure.subplots(num_rows, min(PANELS_A_ROW, len(names)), squeeze=False, sharex=True, sharey=True)
    panels, empty = grid.ravel()[: len(names)], grid.ravel()[len(names) :]
    rights = [axes.twinx() for axes in panels]
    for axes, right, name in zip(panels, rights, names, strict=True):
        entries = [run["evaluations"][name] for run in runs]
        for key in entries[0]["means"]:
            side = right if key == reward else axes
            _draw_evaluations(side, key, entries, style_of[key], "wanted" if key == truth else "rewarded")
        for key, (marker, label) in MARKS.items():
            kept = [entry for entry in entries if entry[key] is not None]
            at = [(entry[key], np.interp(entry[key], entry["steps"], entry["means"][truth])) for entry in kept]
            if at:
                axes.plot(*zip(*at, strict=True), marker, color=INK, label=label, **MARK_STYLE)
        axes.set_title(name, loc="left", fontsize=10, color=INK)
        _tidy(axes)
    panels[0].set_ylim(-0.03, 1.03)  # of all panels
    for axes in grid[:, 0]:
        axes.set_ylabel("share of eval_data", fontsize=9, color=INK)
    for axes in grid[-1]:
        axes.set_xlabel("optimizer step", fontsize=9, color=INK)
    _share_right_axis(rights, f"{reward}, mean")
    for axes in empty:
        axes.set_visible(False)
    lines = {line.get_label(): line for side in (*panels, *rights) for line in side.lines if line.get_label()[0] != "_"}
    figure.legend(handles=lines.values(), loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return figure


def _share_right_axis(rights: list[Axes], label: str) -> None:
    """One scale for all of them, told beside the last panel of each row."""
    low, high = min(axes.dataLim.y0 for axes in rights), max(axes.dataLim.y1 for axes in rights)
    margin = 0.05 * (high - low)
    for axes in rights:
        is_told = axes.get_subplotspec().is_last_col()
        _tidy(axes)
        axes.grid(visible=False)
        axes.set_ylim(low - margin, high + margin)
        axes.set_ylabel(label, fontsize=9, color=INK)
        axes.yaxis.set_visible(is_told)
        axes.spines["right"].set_visible(is_told)
        axes.spines["right"].set_color(GREY)


def _draw_evaluations(axes: Axes, key: str, entries: list[dict], style: tuple[str, str], what: str) -> None:
    color, line = style
    for entry in entries:
        axes.plot(entry["steps"], entry["means"][key], line, color=color, linewidth=0.8, alpha=0.5)
    num = min(len(entry["steps"]) for entry in entries)
    mean = np.mean([entry["means"][key][:num] for entry in entries], axis=0)
    axes.plot(entries[0]["steps"][:num], mean, line, color=color, linewidth=2.6, label=f"{key}: what is {what}")


def smoothed(values: list[float]) -> np.ndarray:
    """A centred running mean over SMOOTHING_ROLLOUTS; at the ends over those that there are."""
    kernel = np.ones(min(SMOOTHING_ROLLOUTS, len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color="#E8EAED", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, color=GREY, labelcolor=INK)


def pictures_of(runs: list[dict]) -> dict[str, Callable[[list[dict]], Figure]]:
    """Name of a file -> what draws it, for the pictures that a study has."""
    if runs[0].get("evaluations"):
        return {"reward_against_truth": reward_against_truth_of}
    return {"scores": scores_of, "curves": curves_of}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    runs = json.loads(arguments.results.read_text(encoding="utf-8"))
    for name, draw in pictures_of(runs).items():
        file = arguments.folder / f"{name}.png"
        draw(runs).savefig(file, dpi=110)
        print(file)
    return 0


if __name__ == "__main__":
    sys.exit(main())
