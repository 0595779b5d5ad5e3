"""The pictures of a study: every model and every run of RL is in them, whatever a seed lacks."""

import importlib.util

import pytest
from conftest import REPOSITORY

spec = importlib.util.spec_from_file_location("study_pictures", REPOSITORY / "scripts" / "study_pictures.py")
study_pictures = importlib.util.module_from_spec(spec)
spec.loader.exec_module(study_pictures)

CURVES = {"steps": [2, 4, 6, 8, 10, 12, 14, 16], "accuracy": [0.1] * 8, "format": [0.5] * 8, "tokens": [20.0] * 8}


def run_of(scores: dict[str, float | None], curves: dict[str, dict[str, list[float]]]) -> dict:
    return {"models": {label: {"pass@1": score} for label, score in scores.items()}, "curves": curves}


def test_model_that_one_seed_was_refused_for_has_dots_and_no_bar():
    runs = [run_of({"base": 0.1, "rl": 0.8}, {}), run_of({"base": None, "rl": 0.6}, {})]
    (axes,) = study_pictures.scores_of(runs).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "rl"]
    assert [bar.get_width() for bar in axes.patches] == [pytest.approx(70.0)]
    assert [list(line.get_xdata()) for line in axes.lines] == [[10.0], [80.0, 60.0]]


def test_curves_have_a_row_for_each_group_and_a_line_for_each_run():
    names = ["zero", "reasoning_rl", "with_gspo", "final_rl"]
    figure = study_pictures.curves_of([run_of({}, dict.fromkeys(names, CURVES))] * 2)
    legends = [[text.get_text() for text in axes.get_legend().get_texts()] for axes in figure.axes if axes.get_legend()]
    assert legends == [["zero", "reasoning_rl"], ["with_gspo"], ["final_rl"]]


@pytest.mark.parametrize(
    ("curves", "steps"),
    [
        pytest.param([CURVES, CURVES], [CURVES["steps"]] * 3, id="whole"),
        pytest.param(
            [CURVES, {key: values[:3] for key, values in CURVES.items()}], [[2, 4, 6]] * 3, id="a shorter seed"
        ),
        pytest.param(
            [{"steps": [1, 2], "accuracy": [0.1, 0.2], "tokens": [9.0, 9.0]}] * 2,
            [[1, 2], [], [1, 2]],
            id="no format, two steps",
        ),
    ],
)
def test_panel_shows_the_steps_that_all_seeds_have(curves, steps):
    figure = study_pictures.curves_of([run_of({}, {"zero": curve}) for curve in curves])
    assert [list(line.get_xdata()) for axes in figure.axes for line in axes.lines] == steps


@pytest.mark.parametrize("length", [1, 2, 4, 5, 9])
def test_smoothing_keeps_a_constant_and_its_length(length):
    assert list(study_pictures.smoothed([0.25] * length)) == pytest.approx([0.25] * length)


def evaluated(steps: list[int], truth: list[float], stopped_at: int | None, best_step: int | None) -> dict:
    return {
        "truth": "explained",
        "stopped_at": stopped_at,
        "best_step": best_step,
        "steps": steps,
        "means": {"explained": truth, "reward_model": [10.0 * step for step in steps]},
    }


GUARDED = [evaluated([0, 5, 10], [0.1, 0.5, 0.3], 10, 5), evaluated([0, 5], [0.3, 0.1], 7, None)]
UNGUARDED = [evaluated([0, 5, 40], [0.1, 0.5, 0.0], None, None), evaluated([0, 5, 40], [0.3, 0.3, 0.0], None, None)]
WATCHED = [
    {"evaluations": {"guarded_rl": guarded, "unguarded_rl": unguarded}}
    for guarded, unguarded in zip(GUARDED, UNGUARDED, strict=True)
]


@pytest.mark.parametrize(
    ("panel", "lines"),
    [
        pytest.param(
            0,
            [
                ([0, 5, 10], [0.1, 0.5, 0.3]),
                ([0, 5], [0.3, 0.1]),
                ([0, 5], [0.2, 0.3]),
                ([5], [0.5]),
                ([10, 7], [0.3, 0.1]),
            ],
            id="with guards: mean as far as both went, ring and crosses",
        ),
        pytest.param(
            1,
            [([0, 5, 40], [0.1, 0.5, 0.0]), ([0, 5, 40], [0.3, 0.3, 0.0]), ([0, 5, 40], [0.2, 0.4, 0.0])],
            id="without",
        ),
        pytest.param(2, [([0, 5, 10], [0, 50, 100]), ([0, 5], [0, 50]), ([0, 5], [0, 50])], id="its reward"),
    ],
)
def test_picture_of_reward_against_truth_has_every_seed_and_their_mean(panel, lines):
    axes = study_pictures.reward_against_truth_of(WATCHED).axes[panel]
    drawn = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert [steps for steps, _ in drawn] == [steps for steps, _ in lines]
    for (_, values), (_, expected) in zip(drawn, lines, strict=True):
        assert values == pytest.approx(expected)


def test_panels_of_reward_against_truth_share_their_scales():
    left, other_left, right, other_right = study_pictures.reward_against_truth_of(WATCHED).axes
    assert left.get_ylim() == other_left.get_ylim() and left.get_xlim() == other_left.get_xlim()
    assert right.get_ylim() == other_right.get_ylim()
    assert [axes.get_title(loc="left") for axes in (left, other_left)] == ["guarded_rl", "unguarded_rl"]


def test_rewards_of_other_runs_are_read_on_the_axis_of_the_truth():
    mixed = [evaluated([0, 5], [0.1, 0.2], None, None) for _ in WATCHED]
    for entry in mixed:
        entry["means"]["accuracy"] = [0.4, 0.6]
    verified = [
        {**entry, "means": {name: entry["means"][name] for name in ("explained", "accuracy")}} for entry in mixed
    ]
    runs = [
        {"evaluations": {**run["evaluations"], "mixed": of_mixed, "verified": of_verified}}
        for run, of_mixed, of_verified in zip(WATCHED, mixed, verified, strict=True)
    ]
    figure = study_pictures.reward_against_truth_of(runs)
    means = [[line for line in axes.lines if line.get_linewidth() > 2] for axes in figure.axes[2:4]]
    for lines in means:
        assert [list(line.get_ydata()) for line in lines] == [pytest.approx([0.1, 0.2]), pytest.approx([0.4, 0.6])]
    assert [line.get_color() for line in means[0]] == [line.get_color() for line in means[1]]
    assert [len(axes.lines) for axes in figure.axes[6:]] == [3, 0]  # of the reward model; nothing in the last


@pytest.mark.parametrize(
    ("runs", "names"),
    [(WATCHED, ["reward_against_truth"]), ([run_of({}, {})], ["scores", "curves"])],
    ids=["watched", "not"],
)
def test_a_study_has_its_own_pictures(runs, names):
    assert list(study_pictures.pictures_of(runs)) == names
