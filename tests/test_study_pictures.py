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
