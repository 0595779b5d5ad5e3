"""What whoever adds a recipe is helped with: a folder to begin with, evidence, and the pages made of it."""

import json
import shutil
from pathlib import Path

import pytest
from conftest import REPOSITORY

from open_r1 import check
from open_r1.contributing import evidence, new_recipe, pages
from open_r1.planning import start
from open_r1.recipe import RecipeError, load_recipe

FOLDERS = sorted(file.parent.name for file in (REPOSITORY / "recipes").glob("*/README.md"))
NEW = "my-recipe"


@pytest.fixture(autouse=True)
def recipes(tmp_path, monkeypatch) -> Path:
    """A copy of the repository's recipes, which everything here takes for the real ones."""
    copy = tmp_path / "recipes"
    shutil.copytree(REPOSITORY / "recipes", copy)
    for module in (check, check.data, check.models, new_recipe, evidence, pages, start):
        for name, path in {"RECIPES": copy, "RUNS": tmp_path / "runs", "REPOSITORY": tmp_path}.items():
            if hasattr(module, name):
                monkeypatch.setattr(module, name, path)
    return copy


# --- A folder to begin with


@pytest.mark.parametrize("source", FOLDERS)
def test_new_folder_passes_the_check_and_leads_where_the_old_one_led(source, recipes, capsys):
    assert new_recipe.main([NEW, str(recipes / source)]) == 0, capsys.readouterr().err
    for file in sorted((recipes / source).glob("*.yaml")):
        old, new = load_recipe(file), load_recipe(recipes / NEW / file.name)
        assert new.trainer == old.trainer
        check.check_recipe(new)
        if old.model.name:
            expected = old.model_path(old.model.name).replace(f"/runs/{source}/", f"/runs/{NEW}/")
            assert new.model_path(new.model.name) == expected


def test_new_folder_has_no_evidence_and_says_so(recipes):
    folder = new_recipe.new_recipe(NEW, recipes / "tiny-r1", recipes)
    assert evidence.evidence_of(folder) == []
    assert "**Not run yet.**" in (folder / "README.md").read_text(encoding="utf-8")
    assert not (folder / "results.json").exists()


@pytest.mark.parametrize(
    ("name", "source", "said"),
    [
        ("My Recipe", "tiny-r1", "NAME=My Recipe: a folder's name has small letters"),
        ("../outside", "tiny-r1", "NAME=../outside: a folder's name has small letters"),
        ("tiny-r1", "tiny-r1", "is there already; choose another name"),
        (NEW, "tiny", "no folder of recipes (known: "),
        (NEW, "hub", "no folder of recipes (known: "),
    ],
)
def test_wrong_name_or_source_is_one_line(name, source, said, capsys, recipes):
    assert new_recipe.main([name, str(recipes / source)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (recipes / NEW).exists()


# --- Evidence


RUN = {
    "step": "evaluate",
    "status": "done",
    "seed": 1,
    "commit": "0123456789abcdef",
    "dirty": False,
    "versions": {"torch": "2.13.0"},
    "hardware": {"cpu": "some", "cores": 2},
    "seconds": 7200.0,
    "cost_usd": 4.0,
    "attempts": 1,
    "weights_sha256": None,
    "parents": [{"name": "grpo", "run": "/home/somebody/runs/grpo", "weights_sha256": "ab"}],
    "scores": {
        "model": {
            "model": "/home/somebody/runs/grpo/model",
            "parameters": 866560,
            "benchmarks": {
                "tiny_sums": {"pass@1": 0.5, "pass@1_interval": [0.4, 0.6], "num_problems": 10, "samples": 1}
            },
        }
    },
}


@pytest.fixture
def run_of(tmp_path):
    """Writes a run.json of a recipe, with fields changed, and gives its directory."""

    def write(recipe_file: Path, **fields) -> Path:
        recipe = load_recipe(recipe_file, {"seed": 1})
        record = {**RUN, "recipe_file": str(recipe_file), "recipe_sha256": recipe.sha256, **fields}
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "run.json").write_text(json.dumps(record), encoding="utf-8")
        return tmp_path / "run"

    return write


@pytest.fixture
def folder(recipes):
    return new_recipe.new_recipe(NEW, recipes / "tiny-r1", recipes)


def test_results_table_has_what_a_run_gave_beside_what_is_published(folder, run_of):
    published = {"recipe": "grpo.yaml", "model": "x", "benchmark": "tiny_sums", "metric": "pass@1", "score": 55.5}
    (folder / "evidence" / "published.json").write_text(json.dumps([{**published, "source": "somewhere"}]))
    assert evidence.results_table(folder).startswith("Not yet run.")
    file = evidence.add_evidence(run_of(folder / "evaluate.yaml"))
    assert "/home/somebody" not in file.read_text(encoding="utf-8")
    assert evidence.results_table(folder).splitlines()[2] == (
        "| [evaluate.yaml](evidence/evaluate-seed1-01234567.json) | 1 | model: tiny_sums 50.0 % (40.0 to 60.0; "
        "10 problems x 1) | 55.5 (pass@1) | 2.00 | 4 | 01234567 |"
    )


@pytest.mark.parametrize(
    ("fields", "shown"),
    [
        ({"dirty": True}, "01234567 and changes |"),
        ({"recipe_sha256": "of other settings"}, ".json), with other settings |"),
        ({"cost_usd": None}, "| – | 01234567 |"),
        ({"scores": None, "weights_sha256": "f" * 64}, "| weights ffffffffffff |"),
    ],
)
def test_results_table_hides_nothing(fields, shown, folder, run_of):
    evidence.add_evidence(run_of(folder / "evaluate.yaml", **fields))
    assert shown in evidence.results_table(folder)


@pytest.mark.parametrize("status", ["running", "failed", "interrupted"])
def test_only_finished_runs_are_evidence(status, folder, run_of):
    with pytest.raises(RecipeError, match=f"its status is {status}"):
        evidence.add_evidence(run_of(folder / "evaluate.yaml", status=status))


def test_run_of_a_recipe_from_elsewhere_is_no_evidence(run_of, write_recipe):
    elsewhere = write_recipe(
        "evaluate.yaml", step="evaluate", model={"name": "a/b"}, evaluate={"benchmarks": ["gsm8k"]}
    )
    with pytest.raises(RecipeError, match="is not in .*recipes; put it there first"):
        evidence.add_evidence(run_of(elsewhere))


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ("[", "not valid JSON"),
        ('[{"recipe": "grpo.yaml"}]', r"0\.benchmark: missing; add it"),
        (
            json.dumps([dict.fromkeys((*evidence.PUBLISHED_KEYS, "year"), "grpo.yaml")]),
            r"0\.year: unknown; remove it",
        ),
        (json.dumps([dict.fromkeys(evidence.PUBLISHED_KEYS, "gone.yaml")]), r"0\.recipe: no gone.yaml"),
    ],
)
def test_wrong_published_score_is_one_line(entries, said, folder):
    (folder / "evidence" / "published.json").write_text(entries, encoding="utf-8")
    with pytest.raises(RecipeError, match=said):
        evidence.published_of(folder)


# --- Pages


def test_no_page_is_stale():
    assert pages.main(["--check"]) == 0, "run `make pages` and commit what it wrote"


@pytest.mark.parametrize("is_measured", [True, False])
def test_tiny_recipe_is_measured_once_its_results_are_there(is_measured, recipes):
    file = recipes / "tiny-rlaif" / "results.json"
    file.unlink(missing_ok=True)
    if is_measured:
        file.write_text("[]")
    told = "[measured, three seeds](tiny-rlaif/README.md)" if is_measured else "not yet run"
    lines = [line for line in pages.index(recipes).splitlines() if line.startswith("| [tiny-rlaif]")]
    assert lines and all(line.endswith(f"| {told} |") for line in lines)


def test_page_that_is_stale_is_named(folder, capsys):
    assert pages.main(["--check"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert f"recipes/{folder.name}/README.md: stale; run `make pages` and commit what it wrote" in lines
    assert "recipes/README.md: stale; run `make pages` and commit what it wrote" in lines


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in pages.NOT_ON_GPUS])
def test_readme_has_its_places_and_says_whether_it_was_run(name, recipes):
    text = (recipes / name / "README.md").read_text(encoding="utf-8")
    for block in ("plan", "results"):
        assert f"<!-- {block} -->" in text
        assert f"<!-- end of {block} -->" in text
    assert (recipes / name / "evidence" / "published.json").is_file()
    evidence.published_of(recipes / name)
    assert ("**Not run yet.**" in text) == (not evidence.evidence_of(recipes / name))
