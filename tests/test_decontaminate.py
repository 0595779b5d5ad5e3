"""`make decontaminate`: what it counts, what it prints, what it writes, and what it refuses."""

import csv
import json
import subprocess
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import CPU_TRAINER, SMALLEST_MODEL, sums

from open_r1 import procedural
from open_r1.benchmarks import texts
from open_r1.benchmarks.table import BENCHMARKS
from open_r1.benchmarks.texts import HUB_PROBLEMS, benchmark_texts
from open_r1.curation import decontaminate
from open_r1.curation.decontaminate import main, texts_of
from open_r1.recipe import RecipeError

AIME = "Every morning Aya walks along the river before she drinks a coffee"
ALSO_AIME = "Let the sum of all even positive numbers below a thousand be called N"
AIME_TOO = "Every morning Aya walks along the river before anyone else is there"  # eight words are those of AIME
MATH = "Let the sum of all even positive numbers below seven be called M"
SHORT_MATH = "Compute the following: $1+2$"
ROWS = [
    "A clean problem about nothing at all that anyone has ever asked in a test",
    f"Please solve this. {AIME.upper()}\tagain, and write the answer in a box.",
    "Let the sum of all even positive numbers below seventy be called something",  # two of aime24 and math_500 at once
    "So we compute the following: $1+2$ and are done",
    "Another clean one",
    f"{AIME}; {SHORT_MATH}",
]
CLEAN = [0, 4]
PROBLEMS = {"aime24": [AIME, ALSO_AIME, AIME_TOO], "math_500": [MATH, SHORT_MATH, "Why?"]}
TABLE = [
    ["benchmark", "problems", "too", "short", "to", "match", "problems", "matched", "rows", "that", "match"],
    ["aime24", "3", "0", "3", "3"],
    ["math_500", "3", "1", "2", "3"],
    ["any", "of", "them", "4"],
]
AT_EIGHT = ["--benchmarks", "aime24,math_500"]


def write_jsonl(file, rows):
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


@pytest.fixture
def copies(tmp_path):
    """Arguments that name the two benchmarks, and local copies of them."""
    arguments = [*AT_EIGHT]
    for name, problems in PROBLEMS.items():
        file = write_jsonl(tmp_path / f"{name}.jsonl", [{"problem": problem, "answer": "3"} for problem in problems])
        arguments += ["--copy", f"{name}={file}"]
    return arguments


@pytest.fixture
def data(tmp_path):
    """A .jsonl of ROWS with a number and a conversation in each."""
    return write_jsonl(tmp_path / "data.jsonl", rows_with_more())


def rows_with_more():
    return [{"problem": text, "number": row, "more": [{"role": "user"}]} for row, text in enumerate(ROWS)]


def table_of(printed: str) -> list[list[str]]:
    lines = printed.splitlines()
    start = next(index for index, line in enumerate(lines) if line.split()[:1] == ["benchmark"])
    return [line.split() for line in lines[start : start + 4]]


def rows_in(folder) -> list[dict]:
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_a_row_that_matches_several_counts_once_in_each_and_once_in_all(data, copies, capsys):
    assert main([str(data), *copies]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"{data}: 4 of 6 rows match (66.67%): 8 words in a row, or all of a problem of 3 to 7\n")
    assert table_of(printed) == TABLE
    assert "  row 2 matches math_500 0: let the sum of all even positive numbers below\n" in printed
    assert "  row 3 matches math_500 1: compute the following: $1+2$\n" in printed


@pytest.mark.parametrize(
    ("widths", "matching"),
    [([], 4), (["--shortest", "8"], 3), (["--ngram", "10"], 3), (["--ngram", "13", "--shortest", "13"], 0)],
)
def test_widths_are_those_asked_for(widths, matching, data, copies, capsys):
    assert main([str(data), *copies, *widths]) == int(matching > 0)
    assert f"{matching} of 6 rows match" in capsys.readouterr().out


def write_as(kind, file):
    if kind == "json":
        file.write_text(json.dumps([*rows_with_more()[:-1], {**rows_with_more()[-1], "late": 1}]))
    elif kind == "csv":
        with file.open("w", newline="", encoding="utf-8") as opened:
            writer = csv.writer(opened)
            writer.writerows(
                [["problem", "number"], *([text.replace(" ", "\n" * 9), n] for n, text in enumerate(ROWS))]
            )
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(rows_with_more()), file)
    else:
        write_jsonl(file, rows_with_more())


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_every_format_gives_the_same_in_batches_of_any_size(kind, batch, tmp_path, copies, capsys, monkeypatch):
    monkeypatch.setattr(decontaminate, "ROWS_AT_A_TIME", batch)
    monkeypatch.setattr(decontaminate, "BLOCK_BYTES", 300)  # two or three rows
    file = tmp_path / f"rows.{kind}"
    write_as(kind, file)
    assert main([str(file), *copies]) == 1
    assert table_of(capsys.readouterr().out) == TABLE
    assert main([str(file), *copies, "--out", str(tmp_path / "clean")]) == 0
    assert table_of(capsys.readouterr().out) == TABLE
    assert [row["number"] for row in rows_in(tmp_path / "clean")] == CLEAN


def test_clean_rows_are_written_whole_and_are_then_clean(data, copies, tmp_path, capsys):
    out = tmp_path / "deeper" / "clean"
    assert main([str(data), *copies, "--out", str(out)]) == 0
    assert f"2 rows and decontamination.json are in {out}" in capsys.readouterr().out
    assert rows_in(out) == [rows_with_more()[row] for row in CLEAN]
    assert main([str(out), *copies]) == 0
    assert "0 of 2 rows match" in capsys.readouterr().out


def test_the_report_has_every_match_and_where_problems_come_from(data, copies, tmp_path):
    main([str(data), *copies, "--out", str(tmp_path / "clean")])
    report = json.loads((tmp_path / "clean" / "decontamination.json").read_text())
    matches = report.pop("matches")
    assert [(match["row"], match["benchmark"], match["problem"]) for match in matches] == [
        (1, "aime24", 0),
        (1, "aime24", 2),
        (2, "aime24", 1),
        (2, "math_500", 0),
        (3, "math_500", 1),
        (5, "aime24", 0),
        (5, "aime24", 2),
        (5, "math_500", 1),
    ]
    assert matches[0]["words"] == AIME.lower()
    origins = [benchmark.pop("origin") for benchmark in report["benchmarks"].values()]
    assert [origin.partition(" (sha256 ")[0] for origin in origins] == [
        str(tmp_path / f"{name}.jsonl") for name in PROBLEMS
    ]
    counts = ("num_problems", "num_too_short", "num_matching_rows", "num_matched_problems")
    assert report == {
        "source": str(data),
        "column": "problem",
        "n": 8,
        "shortest": 3,
        "num_rows": 6,
        "num_matching_rows": 4,
        "num_clean_rows": 2,
        "benchmarks": {
            "aime24": dict(zip(counts, (3, 0, 3, 3), strict=True)),
            "math_500": dict(zip(counts, (3, 1, 3, 2), strict=True)),
        },
    }


def test_many_rows_go_into_several_files(copies, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(decontaminate, "ROWS_AT_A_TIME", 10)
    monkeypatch.setattr(decontaminate, "ROWS_PER_FILE", 20)
    data = write_jsonl(tmp_path / "data.jsonl", [{"problem": f"row {row}"} for row in range(45)])
    assert main([str(data), *copies, "--out", str(tmp_path / "clean")]) == 0
    files = sorted((tmp_path / "clean").glob("*.parquet"))
    assert [(file.name, pq.read_metadata(file).num_rows) for file in files] == [
        ("part-00000.parquet", 20),
        ("part-00001.parquet", 20),
        ("part-00002.parquet", 5),
    ]
    assert rows_in(tmp_path / "clean") == [{"problem": f"row {row}"} for row in range(45)]
    capsys.readouterr()
    assert main([str(tmp_path / "clean"), *copies]) == 0
    assert "0 of 45 rows match" in capsys.readouterr().out


def test_what_pandas_says_of_all_rows_is_not_said_of_the_clean_ones(copies, tmp_path):
    pd.DataFrame({"problem": ROWS}).to_parquet(tmp_path / "data.parquet")
    assert main([str(tmp_path / "data.parquet"), *copies, "--out", str(tmp_path / "clean")]) == 0
    assert pq.read_schema(tmp_path / "clean" / "part-00000.parquet").metadata is None


def test_data_of_which_nothing_is_clean_leaves_its_columns(copies, tmp_path):
    data = write_jsonl(tmp_path / "data.jsonl", [{"problem": AIME, "answer": 3}])
    assert main([str(data), *copies, "--out", str(tmp_path / "clean")]) == 0
    table = pq.read_table(tmp_path / "clean" / "part-00000.parquet")
    assert (table.column_names, table.num_rows) == (["problem", "answer"], 0)


def test_data_that_breaks_off_leaves_no_folder(copies, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(decontaminate, "BLOCK_BYTES", 1000)
    data = write_jsonl(tmp_path / "data.jsonl", [{"problem": f"row {row}"} for row in range(1000)])
    with data.open("a") as opened:
        opened.write("{broken\n")
    before = set(tmp_path.iterdir())
    assert main([str(data), *copies, "--out", str(tmp_path / "clean")]) == 2
    assert capsys.readouterr().err.startswith(f"{data}: cannot be read (")
    assert set(tmp_path.iterdir()) == before


def said(*messages):
    return [{"role": role, "content": content} for role, content in messages]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("as it is", "as it is"),
        (None, None),
        (said(("user", "once")), "once"),
        (said(("system", "be"), ("user", "one"), ("assistant", "no"), ("user", "two")), "one\ntwo"),
        (said(("assistant", "nobody asked")), ""),
        (said(("user", None), ("user", "after nothing")), "\nafter nothing"),
        ([], ""),
    ],
)
def test_of_a_conversation_it_is_what_the_user_says(value, text):
    others = [] if isinstance(value, str) or value is None else [said(("user", "before")), said(("user", "after"))]
    batch = pa.table({"column": [*others[:1], value, *others[1:]]})
    assert texts_of(batch, "column").to_pylist() == ["before", text, "after"][1 - len(others[:1]) : 2 + len(others[1:])]


def test_the_prompts_of_a_recipe_are_looked_at(write_recipe, copies, tmp_path, capsys):
    rows = [{"question": text, "answer": "3", "left": "out"} for text in ROWS]
    write_jsonl(tmp_path / "rows.jsonl", rows)
    recipe = write_recipe(
        step="grpo",
        model={"name": "./nowhere"},
        data=[sums(4), {"path": "rows.jsonl", "columns": {"prompt": "question", "solution": "answer"}}],
        rewards=["accuracy"],
        trainer=CPU_TRAINER,
    )
    assert main([str(recipe), *copies]) == 1
    printed = capsys.readouterr().out
    assert "4 of 10 rows match" in printed
    assert table_of(printed) == TABLE
    assert main([str(recipe), "data.0.procedural.num_problems=5", *copies, "--out", str(tmp_path / "clean")]) == 0
    written = rows_in(tmp_path / "clean")
    assert len(written) == 5 + len(CLEAN)
    assert written[-1] == {"prompt": said(("user", ROWS[CLEAN[-1]])), "solution": "3"}


def test_the_documents_of_pretraining_are_looked_at(write_recipe, copies, tmp_path, capsys):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": text} for text in ROWS])
    recipe = write_recipe(
        step="pretrain", model={"architecture": SMALLEST_MODEL}, data=[{"path": "rows.jsonl"}], trainer=CPU_TRAINER
    )
    assert main([str(recipe), *copies]) == 1
    assert table_of(capsys.readouterr().out) == TABLE


def test_the_command_itself_ends_with_1_for_contaminated_data(data, copies):
    command = [sys.executable, "-m", "open_r1.curation.decontaminate", str(data), *copies]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (1, "")
    assert table_of(ended.stdout) == TABLE


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["{data}", "seed=1"], "seed=1: overrides are for a recipe, and {data} is data; drop it"),
        (["{tmp}/gone.jsonl"], "{tmp}/gone.jsonl: no such file; name a recipe, or a file"),
        (["{tmp}/gone.yaml"], "{tmp}/gone.yaml: no such recipe"),
        (["{tmp}"], "{tmp}: a folder without .parquet files"),
        (["{tmp}/empty.jsonl"], "{tmp}/empty.jsonl: cannot be read (Empty JSON"),
        (["{tmp}/empty.json"], "{tmp}/empty.json: no rows"),
        (["{tmp}/object.json"], "{tmp}/object.json: not a list of rows"),
        (["{data}", "--column", "question"], "{data}: no column question; name its text with --column (it has problem"),
        (["{data}", "--column", "number"], "column number: neither texts nor conversations but int64"),
        (["{recipe}", "--column", "prompt"], "--column prompt: is for a data file"),
        (["{recipe}"], "{recipe}: data: step evaluate has none"),
        (["{data}", "--ngram", "2", "--shortest", "3"], "--shortest 3, --ngram 2: give 1 <= shortest <= ngram"),
        (["{data}", "--ngram", "0"], "--shortest 0, --ngram 0: give 1 <= shortest <= ngram"),
        (["{data}", "--out", "{tmp}"], "--out: {tmp} is there already"),
        (["{data}", "--benchmarks", "aime42", "--out", "{tmp}"], "--out: {tmp} is there already"),
        (["{data}", "--benchmarks", "aime42"], "aime42: unknown benchmark (known: "),
        (["{data}", "--benchmarks", "math_500"], "aime24: a copy of it is given, and it is not among the benchmarks"),
        (["{data}", "--copy", "aime24"], "--copy aime24: write NAME=FILE"),
        (["{data}", "--copy", "aime24={tmp}/gone.jsonl"], "aime24: {tmp}/gone.jsonl cannot be read ("),
        (["{data}", "--copy", "aime24={tmp}/a.csv"], "aime24: {tmp}/a.csv is no .jsonl, .json, .parquet file"),
        (["{data}", "--copy", "aime24={tmp}/empty.json"], "aime24: {tmp}/empty.json (sha256 "),
        (["{data}", "--copy", "aime24={tmp}/other.jsonl"], "aime24: {tmp}/other.jsonl has rows without problem"),
        (["{data}", "--copy", "aime24={tmp}/blank.jsonl"], "aime24: {tmp}/blank.jsonl: row 1 has no text (' ')"),
        (["{data}", "--copy", "tiny_sums=a.jsonl", "--benchmarks", "aime24,math_500,tiny_sums"], "tiny_sums: its"),
    ],
)
def test_a_mistake_is_one_line(arguments, line, data, copies, tmp_path, write_recipe, capsys):
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "empty.json").write_text("[]")
    (tmp_path / "object.json").write_text('{"data": []}')
    write_jsonl(tmp_path / "other.jsonl", [{"question": "?"}])
    write_jsonl(tmp_path / "blank.jsonl", [{"problem": "?"}, {"problem": " "}])
    recipe = write_recipe(step="evaluate", model={"name": "./x"}, evaluate={"benchmarks": ["aime24"]})
    places = {"data": data, "tmp": tmp_path, "recipe": recipe}
    assert main([argument.format(**places) for argument in [arguments[0], *copies, *arguments[1:]]]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(line.format(**places))
    assert printed.err.count("\n") == 1


def test_a_pipeline_is_looked_at_stage_by_stage(write_recipe, copies, capsys):
    recipe = write_recipe(step="pipeline", stages=[{"name": "first", "recipe": "sft.yaml"}])
    assert main([str(recipe), *copies]) == 2
    assert "step: a pipeline has no data of its own; name one of its stages (sft.yaml)" in capsys.readouterr().err


def test_a_benchmark_that_cannot_be_had_is_not_left_out(data, copies, capsys):
    arguments = [str(data), *copies]
    arguments[arguments.index("--benchmarks") + 1] += ",aime25"
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("aime25: yentinglin/aime_2025 cannot be loaded from the Hub (")
    assert "--copy aime25=FILE (.jsonl, .json or .parquet, with the column problem)" in printed.err
    assert printed.err.count("\n") == 1


def test_all_benchmarks_are_looked_for_unless_some_are_named(data, copies, monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(decontaminate, "benchmark_texts", lambda names, copies: asked.extend(names) or {})
    main([str(data)])
    assert asked == list(BENCHMARKS)


def test_every_benchmark_has_a_place_from_which_its_problems_come():
    assert {name for name, benchmark in BENCHMARKS.items() if not benchmark.procedural} == set(HUB_PROBLEMS)


def test_what_a_copy_needs_is_what_evaluation_needs():
    for name, place in HUB_PROBLEMS.items():
        assert place.column in BENCHMARKS[name].columns, name


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_a_copy_may_be_of_any_of_its_formats(suffix, tmp_path):
    file, rows = tmp_path / f"copy{suffix}", [{"problem": "one"}, {"problem": "zwei –\u2028二"}]
    if suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif suffix == ".json":
        file.write_text(json.dumps(rows))
    else:
        write_jsonl(file, rows)
    assert benchmark_texts(["aime24"], {"aime24": file})["aime24"].texts == ["one", "zwei –\u2028二"]


def test_a_benchmark_comes_from_the_hub_by_its_subset_and_split(monkeypatch):
    import datasets

    asked = []

    def of_the_hub(*where, **how):
        asked.append((where, how))
        return datasets.Dataset.from_dict({"Question": ["one", "two"], "Correct Answer": ["1", "2"]})

    monkeypatch.setattr(datasets, "load_dataset", of_the_hub)
    found = benchmark_texts(["gpqa_diamond"])["gpqa_diamond"]
    assert asked == [(("Idavidrein/gpqa", "gpqa_diamond"), {"split": "train", "revision": None})]
    assert found.texts == ["one", "two"]
    assert found.origin == "Idavidrein/gpqa/gpqa_diamond/train (Hub, revision newest)"


def test_procedural_problems_are_those_that_are_evaluated():
    programs = benchmark_texts(["tiny_programs"])["tiny_programs"]
    made = BENCHMARKS["tiny_programs"].procedural
    problems = procedural.problems(made.family, made.num_problems, made.split, made.seed, made.parameters)
    assert programs.texts == [problem.question for problem in problems]
    assert programs.origin == "made here: tiny_programs"


def test_a_benchmark_without_a_place_is_told(monkeypatch):
    monkeypatch.delitem(texts.HUB_PROBLEMS, "aime25")
    with pytest.raises(RecipeError, match="aime25: not known where its problems lie"):
        benchmark_texts(["aime25"])


@pytest.mark.slow
def test_the_places_are_those_of_lighteval():
    from open_r1.benchmarks.lighteval_adapter import Registry

    configs = Registry.load_all_task_configs()
    for name, place in HUB_PROBLEMS.items():
        theirs = configs[BENCHMARKS[name].task]
        subset = None if theirs.hf_subset == "default" else theirs.hf_subset
        assert (place.dataset, place.subset, [place.split]) == (theirs.hf_repo, subset, list(theirs.evaluation_splits))
