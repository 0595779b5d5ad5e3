"""Metrics and scores -> pictures, each a PNG as base64, ready for a data: address."""

import base64
import io
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from open_r1.report.phases import StepTimes
from open_r1.report.reading import Run
from open_r1.report.scores import Block, Score
from open_r1.report.truth import RewardAndTruth, called, truth_of

SMOOTHING_SHARE = 1 / 15  # of the logged steps, averaged around each one
MIN_POINTS_TO_SMOOTH = 50  # with fewer, a running mean bends the curve's ends more than noise does
PANELS_PER_ROW = 3

# Blue of Okabe and Ito's palette. One colour is enough: no picture tells two things apart by colour alone.
BLUE, GREY, INK = "#0072B2", "#6B717B", "#2B2F36"
# The same palette, for what is stacked; the legend has the order of the stack.
COLOUR_OF_PHASE = {
    "generation": BLUE,
    "rewards": "#E69F00",
    "logprobs": "#56B4E9",
    "backward": "#009E73",
    "waiting": "#CC79A7",
    "weight_sync": "#D55E00",
    "other": "#B8BEC7",
}
CURVES_OF_PANEL = ((BLUE, "-"), ("#D55E00", "--"))
# Of the truth and of rewards: solid and dashed, so that they are told apart without their colours as well.
TRUTH_COLOURS, REWARD_COLOURS = (BLUE, "#009E73", "#56B4E9"), ("#D55E00", "#E69F00", "#CC79A7")
MARKERS = ("o", "s", "^", "v", "D")
SMALLEST_DOT, LARGEST_DOT = 24, 400  # of the reliability diagram, in square points
MAX_BARS = 100  # of more steps, several share a bar
LABEL_POINTS, TITLE_POINTS = 8.5, 10


@dataclass(frozen=True)
class Panel:
    """One curve: the key of metrics.jsonl (a pattern), how it is drawn, and what it tells a newcomer."""

    key: str
    title: str
    unit: str
    meaning: str
    is_share: bool = False
    beside: str | None = None
    """The key of a second curve, dashed; both are then called by the last part of their key."""


ACCURACY_PANEL = Panel(
    "rewards/accuracy*/mean",
    "pass@1 in training",
    "right answers (%)",
    "the share of sampled answers that are right. If the reward rises and this does not, another reward is gamed.",
    is_share=True,
)
TRUTH_PANEL = replace(  # in its place, for a run whose recipe says what is really wanted; the key is that reward's
    ACCURACY_PANEL,
    title="Truth in training",
    unit="mean (%)",
    meaning="the mean of what guards.truth names. If the reward rises and this falls, the reward is gamed.",
)
GRPO_PANELS = (
    Panel(
        "reward",
        "Reward",
        "mean reward",
        "what training pushes up: the weighted sum of all rewards. It should rise and level off.",
    ),
    ACCURACY_PANEL,
    Panel(
        "completions/mean_length",
        "Answer length",
        "tokens",
        "the mean length of a sampled answer. It grows when thinking longer pays.",
    ),
    Panel(
        "dead_group_share",
        "Dead groups",
        "groups (%)",
        "groups in which every answer got the same reward: nothing can be learned from them. Near 100 % the problems "
        "are all too hard or all too easy.",
        is_share=True,
    ),
    Panel(
        "entropy",
        "Entropy",
        "nats per token",
        "how undecided the model is at each token. A fall to zero means that it has stopped trying anything new.",
    ),
    Panel(
        "completions/clipped_ratio",
        "Cut-off answers",
        "answers (%)",
        "answers that hit the limit of length before they ended, and so can hardly be right.",
        is_share=True,
    ),
)
KL_PANEL = Panel(
    "kl",
    "Distance from the reference",
    "nats per token",
    "how far the policy has gone from the model that it is held to. Far away a reward model knows nothing.",
)
SFT_PANELS = (
    Panel(
        "loss", "Loss", "nats per token", "how surprised the model is by the next token of the texts. It should fall."
    ),
    Panel(
        "mean_token_accuracy",
        "Tokens predicted",
        "tokens (%)",
        "how often the model's first guess is the next token of the texts. Not how many problems it solves.",
        is_share=True,
    ),
)


DPO_PANELS = (
    Panel(
        "loss",
        "Loss",
        "loss",
        "how far the policy is from telling a pair's better answer; of the sigmoid loss 0.693 is not knowing at all.",
    ),
    Panel(
        "rewards/accuracies",
        "Pairs in the right order",
        "pairs (%)",
        "pairs whose better answer has the higher implicit reward. It begins at half of them, and should rise.",
        is_share=True,
    ),
    Panel(
        "rewards/margins",
        "Margin",
        "implicit reward",
        "the implicit reward of the better answer less that of the worse one: what training pushes up.",
    ),
    Panel(
        "rewards/chosen",
        "Implicit rewards",
        "implicit reward",
        "beta times the logarithm of how much likelier an answer is than at the beginning. If both fall, the policy "
        "moves away from good answers as well, only more slowly.",
        beside="rewards/rejected",
    ),
    Panel(
        "logps/chosen",
        "Log-probability of the answers",
        "nats an answer",
        "of the two answers of a pair. If both fall, answers that no pair has become likelier.",
        beside="logps/rejected",
    ),
)
REWARD_MODEL_PANELS = (
    Panel(
        "loss",
        "Loss",
        "nats",
        "-log of the probability that the rewards give to a pair's better answer; 0.693 is knowing nothing.",
    ),
    Panel(
        "accuracy",
        "Pairs in the right order",
        "pairs (%)",
        "training pairs whose better answer has the higher reward. What held-out pairs say stands below.",
        is_share=True,
    ),
    Panel(
        "margin",
        "Margin",
        "reward",
        "the reward of the better answer less that of the worse one. It goes on growing as the model gets surer.",
    ),
)
PANELS_OF = {"dpo": DPO_PANELS, "reward_model": REWARD_MODEL_PANELS}  # GRPO: _panels; others: SFT_PANELS


@dataclass(frozen=True)
class Curves:
    """The picture of one run's curves and a line on each of them."""

    name: str
    step: str
    picture: str
    meanings: list[tuple[str, str]]


def draw_curves(stage: Run, notes: list[str]) -> Curves | None:
    """None if the run logged nothing that is drawn."""
    if stage.metrics.empty:
        return None
    drawn: list[tuple[Panel, dict[str, pd.Series]]] = []
    for panel in _panels(stage):
        curves = {}
        for pattern in filter(None, (panel.key, panel.beside)):
            values = _logged(stage, pattern)
            if values.empty:
                notes.append(f"{stage.name}: no `{pattern}` in metrics.jsonl, so no curve of it")
            else:
                curves[pattern.rpartition("/")[2]] = values * 100 if panel.is_share else values
        if curves:
            drawn.append((panel, curves))
    if not drawn:
        return None
    meanings = [(panel.title, panel.meaning) for panel, _ in drawn]
    return Curves(stage.name, stage.step, _png(_small_multiples(drawn)), meanings)


def _panels(stage: Run) -> list[Panel]:
    if stage.step != "grpo":
        return list(PANELS_OF.get(stage.step, SFT_PANELS))
    panels = []
    for panel in GRPO_PANELS:
        panels += _reward_panels(stage) if panel is ACCURACY_PANEL else [panel]
    return [*panels, KL_PANEL] if "kl" in stage.metrics else panels


def _reward_panels(stage: Run) -> list[Panel]:
    """The truth, or the accuracy if there is one, and then each of the other rewards by itself."""
    truth, rewards = truth_of(stage), stage.recipe.get("rewards") or []
    panels = [ACCURACY_PANEL] if truth is None else [replace(TRUTH_PANEL, key=f"rewards/{truth}/mean")]
    others = [reward for reward in rewards if not fnmatchcase(f"rewards/{called(reward)}/mean", panels[0].key)]
    if truth is None and others and len(others) == len(rewards):
        panels = []
    for reward in others:
        weight = reward.get("weight", 1.0)
        counts = f"it is in the reward {weight:g} times" if weight else "it is looked at, and not learned from"
        meaning = f"the mean of this reward alone, of the answers that it is for; {counts}."
        panels.append(Panel(f"rewards/{called(reward)}/mean", f"Reward {called(reward)}", "mean", meaning))
    return panels


def _logged(stage: Run, pattern: str) -> pd.Series:
    """The values of the first key of this pattern, by step; empty if none was logged."""
    key = next((key for key in stage.metrics.columns if fnmatchcase(str(key), pattern)), None)
    return pd.Series(dtype=float) if key is None else pd.to_numeric(stage.metrics[key], errors="coerce").dropna()


def draw_truth(found: RewardAndTruth) -> str:
    """What is wanted, solid, and what is rewarded, dashed, over the steps of RL; what is no share on the right axis."""
    return _png(_two_axes(found))


def draw_reliability(report: Mapping[str, Any]) -> str | None:
    """How often a reward model is right by how sure it is; None without a report, or without bins in it."""
    return _png(_reliability(report["calibration"])) if report.get("calibration") else None


def draw_bars(block: Block) -> str | None:
    """pass@1 of each model with its interval; None if no model has one."""
    scores = [score for score in block.scores if score.pass_at_1 is not None]
    return _png(_bar_chart(scores)) if scores else None


def draw_phases(times: StepTimes) -> str:
    """Seconds of each step, stacked by phase; steps that are not in the means are pale."""
    return _png(_stacked_bars(times))


def _stacked_bars(times: StepTimes) -> Figure:
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    axes = figure.subplots()
    logs_per_bar = math.ceil(len(times.seconds) / MAX_BARS)
    bar = pd.Series(range(len(times.seconds)), times.seconds.index) // logs_per_bar
    num_steps = times.num_steps.groupby(bar).sum()
    seconds = times.seconds.mul(times.num_steps, axis=0).groupby(bar).sum().div(num_steps, axis=0)
    last_step = pd.Series(times.seconds.index, times.seconds.index).groupby(bar).last()
    middle = last_step - (num_steps - 1) / 2
    pale = [0.35 if step < times.first_step else 1.0 for step in last_step]
    bottom = pd.Series(0.0, seconds.index)
    for phase in times.phases:
        if not seconds[phase.name].any():
            continue
        colours = [(COLOUR_OF_PHASE[phase.name], alpha) for alpha in pale]
        axes.bar(middle, seconds[phase.name], 0.9 * num_steps, bottom, color=colours)
        axes.bar(0, 0, color=COLOUR_OF_PHASE[phase.name], label=f"{phase.name}  {phase.seconds:.2f} s")
        bottom += seconds[phase.name]
    axes.set_title("Seconds by phase", loc="left", fontsize=TITLE_POINTS, fontweight="bold", color=INK)
    means = f"means of steps {times.first_step} to {times.last_step}"
    axes.set_title(means if min(pale) == 1 else f"{means}, without the pale ones", loc="right", fontsize=8, color=GREY)
    axes.set_xlim(middle.iloc[0] - num_steps.iloc[0] / 2, last_step.iloc[-1] + 0.5)
    axes.set_xlabel("training step", fontsize=LABEL_POINTS, color=INK)
    axes.set_ylabel("seconds a step", fontsize=LABEL_POINTS, color=INK)
    axes.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True, frameon=False, fontsize=9, labelcolor=INK)
    _tidy(axes)
    return figure


def _two_axes(found: RewardAndTruth) -> Figure:
    """What is a share has the left axis, so that it can be read beside the truth; a reward model's scale is its own."""
    figure = Figure(figsize=(8.2, 3.8), layout="constrained")
    left = figure.subplots()
    shares = {name: values for name, values in found.rewards.items() if values.between(0, 1).all()}
    others = {name: values for name, values in found.rewards.items() if name not in shares}
    lines = _evaluations(left, found.truths, TRUTH_COLOURS, "-")
    lines += _evaluations(left, shares, REWARD_COLOURS[::-1], "--")
    left.set_ylabel(f"{', '.join([*found.truths, *shares])} (mean on eval_data)", fontsize=LABEL_POINTS, color=INK)
    left.set_xlabel("training step", fontsize=LABEL_POINTS, color=INK)
    left.xaxis.set_major_locator(MaxNLocator(10, integer=True))
    if all(values.between(0, 1).all() for values in found.truths.values()):
        left.set_ylim(-0.03, 1.03)
    if others:
        right = left.twinx()
        lines += _evaluations(right, others, REWARD_COLOURS, "--")
        right.set_ylabel(f"{', '.join(others)} (mean on eval_data)", fontsize=LABEL_POINTS, color=INK)
        right.grid(visible=False)
        right.spines["right"].set_visible(True)
        right.spines["right"].set_color("#C9CDD3")
    truth = next(iter(found.truths.values()))
    if found.best_step in truth.index:
        label = f"best checkpoint (step {found.best_step})"
        ring = {"markersize": 12, "fillstyle": "none", "markeredgewidth": 1.6, "linestyle": "none"}
        lines += left.plot(found.best_step, truth[found.best_step], "o", color=INK, label=label, **ring)
    if found.stopped_at is not None:
        label = f"a guard stopped it (step {found.stopped_at})"
        lines.append(left.axvline(found.stopped_at, color=INK, linewidth=1.4, linestyle=":", label=label))
    figure.legend(handles=lines, loc="outside upper left", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _evaluations(axes: Axes, means: dict[str, pd.Series], colours: Sequence[str], style: str) -> list[Line2D]:
    lines = []
    for (name, values), colour, marker in zip(
        means.items(), itertools.cycle(colours), itertools.cycle(MARKERS), strict=False
    ):
        drawn = {"color": colour, "linewidth": 2, "marker": marker, "markersize": 4, "label": name}
        lines += axes.plot(values.index, values, style, **drawn)
    _tidy(axes)
    return lines


def _reliability(bins: Sequence[Mapping[str, float]]) -> Figure:
    """A dot a bin, larger the more pairs it holds; on the line it is as often right as it is sure."""
    figure = Figure(figsize=(5.2, 3.8), layout="constrained")
    axes = figure.subplots()
    num_pairs = sum(each["pairs"] for each in bins)
    axes.plot([50, 100], [50, 100], color=GREY, linewidth=1, linestyle="--")
    for each in bins:
        sure, right = 100 * each["confidence"], 100 * each["right"]
        size = SMALLEST_DOT + (LARGEST_DOT - SMALLEST_DOT) * each["pairs"] / num_pairs
        axes.scatter(sure, right, s=size, color=BLUE, alpha=0.85, clip_on=False)
        beyond = math.sqrt(size) / 2 + 3  # the number stands outside the dot, where there is room
        axes.annotate(
            f"{each['pairs']:,}",
            (sure, right),
            xytext=(0, -beyond if right > 50 else beyond),
            textcoords="offset points",
            ha="center",
            va="top" if right > 50 else "bottom",
            fontsize=8,
            color=INK,
        )
    axes.set_title("right as often as it is sure?", loc="left", fontsize=TITLE_POINTS, fontweight="bold", color=INK)
    axes.set_title("pairs beside the dots", loc="right", fontsize=8, color=GREY)
    axes.set_xlabel("how sure the reward model is of its choice (%)", fontsize=LABEL_POINTS, color=INK)
    axes.set_ylabel("how often it is right (%)", fontsize=LABEL_POINTS, color=INK)
    axes.set_xlim(48, 102)
    axes.set_ylim(-4, 104)
    _tidy(axes)
    return figure


def _small_multiples(drawn: list[tuple[Panel, dict[str, pd.Series]]]) -> Figure:
    num_rows = math.ceil(len(drawn) / PANELS_PER_ROW)
    # The same width whatever there is to draw, so that letters come out equally large on the page.
    figure = Figure(figsize=(11, 2.7 * num_rows), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)
    grid = figure.subplots(num_rows, PANELS_PER_ROW, squeeze=False).ravel()
    for axes, (panel, curves) in zip(grid, drawn, strict=False):
        for (name, values), (colour, style) in zip(curves.items(), CURVES_OF_PANEL, strict=False):
            smooth = _smoothed(values)
            if smooth is None:
                axes.plot(
                    values.index, values, style, color=colour, linewidth=1.4, marker="o", markersize=2.5, label=name
                )
            else:
                axes.plot(values.index, values, color=colour, linewidth=0.6, alpha=0.35)
                axes.plot(values.index, smooth, style, color=colour, linewidth=2, label=name)
        axes.set_title(panel.title, loc="left", fontsize=TITLE_POINTS, fontweight="bold", color=INK)
        if panel.beside:
            axes.legend(frameon=False, fontsize=8, labelcolor=INK)
        else:
            ends = values if smooth is None else smooth
            axes.set_title(f"{_short(ends.iloc[0])} → {_short(ends.iloc[-1])}", loc="right", fontsize=8, color=GREY)
        axes.set_xlabel("training step", fontsize=LABEL_POINTS, color=INK)
        axes.set_ylabel(panel.unit, fontsize=LABEL_POINTS, color=INK)
        if panel.is_share:
            axes.set_ylim(-3, 103)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        _tidy(axes)
    for axes in grid[len(drawn) :]:
        axes.set_visible(False)
    return figure


def _smoothed(values: pd.Series) -> pd.Series | None:
    """A centred running mean, None if there are too few points for one."""
    if len(values) < MIN_POINTS_TO_SMOOTH:
        return None
    return values.rolling(max(3, round(len(values) * SMOOTHING_SHARE)), center=True, min_periods=1).mean()


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _bar_chart(scores: list[Score]) -> Figure:
    figure = Figure(figsize=(8.2, 0.9 + 0.42 * len(scores)), layout="constrained")
    axes = figure.subplots()
    for position, score in enumerate(scores):
        percent = 100 * score.pass_at_1
        axes.barh(position, percent, height=0.62, color=BLUE, alpha=0.85)
        right_end = percent
        if score.interval:
            low, high = (100 * bound for bound in score.interval)
            right_end = max(percent, high)
            errors = [[max(0, percent - low)], [max(0, high - percent)]]
            axes.errorbar(percent, position, xerr=errors, color=INK, capsize=3, linewidth=1.2)
        axes.text(right_end + 1.5, position, f"{percent:.1f} %", va="center", fontsize=9, color=INK)
    axes.set_yticks(range(len(scores)), [score.label for score in scores])
    axes.invert_yaxis()
    axes.set_xlim(0, 112)  # room for the number beside a full bar
    axes.set_xticks(range(0, 101, 20))
    axes.set_xlabel("pass@1 (%), with 95 % interval", fontsize=LABEL_POINTS, color=INK)
    _tidy(axes)
    axes.spines["bottom"].set_bounds(0, 100)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0, labelsize=9, labelcolor=INK)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#C9CDD3")
    axes.grid(color="#E8EAED", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, color="#C9CDD3", labelcolor=INK)


def _png(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)  # a bare Figure draws with Agg and needs no display
    return base64.b64encode(stream.getvalue()).decode("ascii")
