"""`make push`: what arrives at a Hub of this test's own is what the run left, and the card says how it was made."""

import json
import shutil
from types import SimpleNamespace

import huggingface_hub.constants
import pyarrow
import pyarrow.parquet as parquet
import pytest
import yaml
from conftest import REPOSITORY, TINY, sums
from datasets import get_dataset_config_names, load_dataset
from hub_server import HubServer
from huggingface_hub import DatasetCard

from open_r1 import evaluate
from open_r1.curation import pairs
from open_r1.curation.rejection import keep_within_limits, schema_of
from open_r1.curation.rows import write_rows
from open_r1.curation.traces import provenance_of
from open_r1.generation import Completion
from open_r1.publishing import publication_of
from open_r1.publishing.__main__ import main
from open_r1.publishing.card import _source_text, command_of, percent
from open_r1.publishing.paths import names_of_paths, without_paths
from open_r1.recipe import load_recipe
from open_r1.run_record import finish_record, start_record, update_record

TOKEN, READER = "hf_the_token_that_may_write", "hf_the_token_that_may_read"
REPO = "me/traces"
SHA256, COMMIT = "5a" * 32, "1b" * 20
DROPPED = ["accuracy below 1", None, None, None, "truncated", "accuracy below 1", "refused", None]
GENERATE = {"samples": 2, "temperature": 0.7, "top_p": 0.9, "max_completion_length": 64}
ANSWERS = SimpleNamespace(prompt="1+1", gold="2", completions=[Completion("2", 3, False)], scores=[1.0], answers=["2"])
ENTRY = {
    **{"pass@1": 0.567, "pass@1_interval": [0.535, 0.597], "pass@k": {"1": 0.567, "4": 0.8}, "maj@k": {"4": 0.625}},
    **{"num_problems": 30, "samples": 4, "temperature": 0.6, "top_p": 0.95, "max_new_tokens": 32768},
    **{"tokens_per_answer": 3.0, "truncated_share": 0.125, "unjudged": 2, "seconds": 1.0},
}
REFUSED = ENTRY | {"refused": "all | cut off", "pass@1": None, "pass@1_interval": None, "pass@k": {}}


@pytest.fixture(autouse=True)
def at_the_hub(monkeypatch, tmp_path):
    """Points the client at a Hub; no token of the machine's is found."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "no_token"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)

    def at(url, token=TOKEN):
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
        template = f"{url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        if token:
            monkeypatch.setenv("HF_TOKEN", token)

    at("http://127.0.0.1:9", token=None)
    return at


@pytest.fixture
def hub(at_the_hub):
    with HubServer({TOKEN: ("me", "write"), READER: ("me", "read")}) as server:
        at_the_hub(server.url)
        yield server


@pytest.fixture
def traces_run(tmp_path, write_recipe):
    """Makes a finished run of generate, 4 prompts in 2 shards, with other sections of its recipe."""

    def make(folder="runs/traces", dropped=tuple(DROPPED), source="x", parents=True, **sections):
        run_dir = tmp_path / folder
        values = {
            "step": "generate",
            "seed": 5,
            "model": {"name": str(tmp_path / "runs" / "policy" / "model")},
            "data": [sums(2)],
            "rewards": ["format", {"name": "accuracy", "gold_is_latex": True}],
            "keep": {"max_per_prompt": 1, "language": "en"},
            "generate": GENERATE,
            **sections,
        }
        file = write_recipe("ours.yaml", **{key: value for key, value in values.items() if value is not None})
        recipe = load_recipe(file)
        parent = {"name": "policy", "run": str(tmp_path / "runs" / "policy"), "weights_sha256": SHA256}
        start_record(run_dir, recipe, str(file), [parent] if parents else [])
        update_record(run_dir, commit=COMMIT, dirty=True, command=["/x/open_r1/launch.py", "generate", str(file)])
        columns = pyarrow.schema([("solution", pyarrow.string()), ("source", pyarrow.string())])
        schema = schema_of(columns, ["format", "accuracy"])
        rows = [
            {
                "id": f"{index // 2}-{index % 2}",
                "prompt": [{"role": "user", "content": f"{index // 2}+1"}],
                "solution": str(index // 2 + 1),
                "source": source,
                "reward_format": 1.0,
                "reward_accuracy": 0.0 if why else 1.0,
                "completion": f"<think>…</think>{index}",
                "num_tokens": 9,
                "truncated": False,
                "refused": None,
                "dropped_for": why,
            }
            for index, why in enumerate(dropped)
        ]
        files = [run_dir / "completions" / f"part-{number:05d}.parquet" for number in range(2)]
        write_rows(rows[:4], schema, files[0])
        write_rows(rows[4:], schema, files[1])
        counts = keep_within_limits(run_dir, files, recipe.keep, provenance_of(recipe, run_dir))
        (run_dir / f"{recipe.step}.json").write_text(json.dumps(counts))
        finish_record(run_dir, "done")
        return run_dir

    return make


@pytest.fixture
def pairs_run(tmp_path, write_recipe):
    """Makes a finished run of preferences: 3 prompts with 2 answers each, of which 2 are pairs."""

    def make(**preferences):
        run_dir = tmp_path / "runs" / "pairs"
        (tmp_path / "rubric.yaml").write_text("{description: D., principles: [{name: order, text: 'In order?'}]}")
        file = write_recipe(
            "ours.yaml",
            step="preferences",
            seed=5,
            model={"name": str(tmp_path / "runs" / "policy" / "model")},
            data=[sums(3)],
            preferences={**GENERATE, "rubric": "rubric.yaml", "balance_lengths": False, **preferences},
            judge={"endpoint": {"base_url": "http://10.1.2.3:8000/v1", "model": "the-judge"}, "judgements": 3},
        )
        recipe = load_recipe(file)
        start_record(run_dir, recipe, str(file), [])
        update_record(run_dir, commit=COMMIT, dirty=False, command=["/x/open_r1/launch.py", "preferences", str(file)])
        rows = [
            {
                "id": f"{index // 2}-{index % 2}",
                "prompt": [{"role": "user", "content": f"{index // 2}+1"}],
                "completion": f"{index}",
                "num_tokens": 8 + index,
                "truncated": False,
                "refused": None,
                "score": score,
                "dropped_for": None if score else "truncated",
            }
            for index, score in enumerate([3.0, 7.5, 9.0, 2.0, None, 6.0])
        ]
        part = run_dir / "completions" / "part-00000.parquet"
        write_rows(rows, pairs.schema_of(pyarrow.schema([])), part)
        counts = pairs.keep_pairs(run_dir, [part], recipe.preferences, 5, provenance_of(recipe, run_dir))
        found = {"verdicts": 15, "cached": 0, "unreadable": 1, "refused": 0, "position_bias": None, "spread": 0.51234}
        (run_dir / "preferences.json").write_text(json.dumps(counts | {"judge": found}))
        finish_record(run_dir, "done")
        return run_dir

    return make


@pytest.fixture
def evaluation_run(tmp_path, write_recipe):
    """Makes a finished run of evaluate, with these entries of scores.json: label -> benchmark -> entry."""

    def make(entries=None, folder="runs/evaluation", **more):
        run_dir = tmp_path / folder
        entries = entries or {"base": {"aime24": ENTRY}, "tuned": {"aime24": ENTRY, "gsm8k": REFUSED}}
        models = {label: str(tmp_path / "runs" / label) for label in entries}
        file = write_recipe("ours.yaml", step="evaluate", evaluate={"benchmarks": ["aime24"], "models": models})
        parents = [
            {"name": "runs", "run": str(tmp_path / "runs"), "weights_sha256": f"{index}" * 64}
            for index, _ in enumerate(entries)
        ]
        start_record(run_dir, load_recipe(file), str(file), parents)
        for label, benchmarks in entries.items():
            for benchmark in benchmarks:
                answers = evaluate.completions_file(run_dir, label, benchmark)
                evaluate.write_completions(SimpleNamespace(problems=[ANSWERS]), answers)
                answers.with_suffix(".json").write_text("{}")
        scores = {
            label: {"model": models[label], "parameters": 1000, "benchmarks": benchmarks, **more}
            for label, benchmarks in entries.items()
        }
        (run_dir / "scores.json").write_text(json.dumps(scores))
        finish_record(run_dir, "done")
        return run_dir

    return make


def card_of(run_dir, **options) -> str:
    return publication_of(run_dir, REPO, **options).card


def push(run_dir, *options, to=REPO) -> int:
    return main([str(run_dir), to, *options])


def the_line(capsys) -> str:
    """The one line of an error, in which no token stands."""
    said = capsys.readouterr()
    assert TOKEN not in said.out + said.err
    assert READER not in said.out + said.err
    (line,) = said.err.splitlines()
    return line


# --- what arrives


@pytest.mark.parametrize("large_files", [False, True])
def test_what_arrives_is_what_the_run_left(large_files, traces_run, hub):
    hub.large_files = large_files
    run_dir = traces_run()
    assert push(run_dir) == 0
    arrived = hub.files(REPO)
    assert sorted(arrived) == ["README.md", "kept/part-00000.parquet", "kept/part-00001.parquet"] + [
        f"prompts/part-0000{number}.parquet" for number in range(2)
    ]
    for name in arrived.keys() - {"README.md"}:
        assert arrived[name] == (run_dir / name).read_bytes()
    assert len(hub.datasets[REPO].commits) == 1
    assert hub.large.keys() == set() or large_files


def test_answers_of_an_evaluation_arrive_and_its_scores(evaluation_run, hub):
    run_dir = evaluation_run()
    assert push(run_dir) == 0
    arrived = hub.files(REPO)
    names = ["base-aime24", "tuned-aime24", "tuned-gsm8k"]
    assert sorted(arrived) == ["README.md", *(f"completions/{name}.parquet" for name in names), "scores.json"]
    for name in names:
        assert arrived[f"completions/{name}.parquet"] == (run_dir / f"completions/{name}.parquet").read_bytes()
    scores = json.loads(arrived["scores.json"])
    assert [score["model"] for score in scores.values()] == ["runs/base", "runs/tuned"]
    ours = json.loads((run_dir / "scores.json").read_text())
    assert {label: score["benchmarks"] for label, score in scores.items()} == {
        label: score["benchmarks"] for label, score in ours.items()
    }


def test_address_of_the_commit_is_printed(traces_run, hub, capsys):
    assert push(traces_run()) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{hub.url}/datasets/{REPO}/commit/")


def test_second_push_takes_the_place_of_the_first_and_leaves_what_others_put_there(traces_run, hub):
    push(traces_run())
    hub.datasets[REPO].files["LICENSE"] = b"ours"
    run_dir = traces_run("runs/again", dropped=[*DROPPED[:4], *["truncated"] * 4])
    assert push(run_dir) == 0
    assert "kept/part-00001.parquet" not in hub.files(REPO)
    assert hub.files(REPO)["LICENSE"] == b"ours"
    assert hub.files(REPO)["README.md"].decode() == card_of(run_dir)
    assert len(hub.datasets[REPO].commits) == 2


@pytest.mark.parametrize("options", [[], ["--private"]])
def test_repository_is_private_if_asked(options, traces_run, hub):
    assert push(traces_run(), *options) == 0
    assert hub.datasets[REPO].private == bool(options)


def test_dry_run_shows_card_and_files_and_asks_nobody(traces_run, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    run_dir = traces_run()
    assert push(run_dir, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert shown.startswith(card_of(run_dir))
    assert [line.split()[-1] for line in shown.splitlines()[-6:-1]] == list(publication_of(run_dir, REPO).files)
    assert hub.requests == []


# --- the card


def test_head_names_the_files_that_are_sent(traces_run):
    publication = publication_of(traces_run(), REPO)
    configs = DatasetCard(publication.card).data.configs
    assert [(each["config_name"], each.get("default", False)) for each in configs] == [
        ("kept", True),
        ("prompts", False),
    ]
    assert [each["data_files"] for each in configs] == [
        [{"split": "train", "path": "kept/*.parquet"}],
        [{"split": "train", "path": "prompts/*.parquet"}],
    ]


@pytest.mark.parametrize(
    ("kind", "config", "num_rows", "column"),
    [
        ("traces", None, 3, "verified_by"),
        ("traces", "prompts", 4, "pass_rate"),
        ("pairs", None, 2, "rejected"),
        ("evaluation", None, 1, "gold"),
        ("evaluation", "tuned-gsm8k", 1, "answers"),
    ],
)
def test_pushed_folder_loads(kind, config, num_rows, column, traces_run, pairs_run, evaluation_run, hub, tmp_path):
    assert push({"traces": traces_run, "pairs": pairs_run, "evaluation": evaluation_run}[kind]()) == 0
    folder = tmp_path / "pushed"
    for name, content in hub.files(REPO).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    rows = load_dataset(str(folder), config, split="train", cache_dir=str(tmp_path / "cache"))
    assert len(rows) == num_rows
    assert column in rows.column_names
    if kind == "traces":
        assert get_dataset_config_names(str(folder)) == ["kept", "prompts"]


@pytest.mark.parametrize(
    "said",
    [
        "# Verified traces of ours.yaml",
        f"commit of open_r1 | `{COMMIT}`, with changes that are in no commit",
        "Model: `policy/model`, sampled in transformers.",
        f"- sha256 of its weights: `{SHA256}`",
        "| samples per prompt | 2 |",
        "| temperature | 0.7 |",
        "| top-p | 0.9 |",
        "| tokens per completion, at most | 64 |",
        "| seed | 5 |",
        "| accuracy | gold_is_latex true |",
        "| math-verify | 0.5.2 |",
        "- it is written in `en`,",
        "- no more than 1 of its prompt.",
        "| sampled, for 4 prompts | 8 | 100.0 % |",
        "| kept | 3 | 37.5 % |",
        "| dropped: accuracy below 1 | 2 | 25.0 % |",
        "| dropped: beyond max_per_prompt | 1 | 12.5 % |",
        "family basic_arithmetic, num_problems 2,",
        "| pass_rate | prompts | double |",
        "| prompt | all | conversation |",
        "    .venv/bin/python -m open_r1.launch generate ours.yaml\n",
        f'load_dataset("{REPO}", "kept", split="train")  # 3 rows',
    ],
)
def test_card_of_traces_says(said, traces_run):
    assert said in card_of(traces_run())


def test_card_has_the_hash_of_the_recipe(traces_run):
    run_dir = traces_run()
    assert json.loads((run_dir / "run.json").read_text())["recipe_sha256"] in card_of(run_dir)


@pytest.mark.parametrize(
    "said",
    [
        "| base | aime24 | 56.7 % | 53.5 to 59.7 | 80.0 % (k = 4) | 62.5 % (k = 4) | 30 | 4 | 0.6 | 0.95 | 32768 | "
        "12.5 % | 2 |",
        "| tuned | gsm8k | refused | – | – | – | 30 | 4 |",
        "- tuned on gsm8k: all \\| cut off",
        f"| tuned | runs/tuned | 1000 | {'1' * 64} |",
        "- aime24: LightEval's `aime24`",
    ],
)
def test_card_of_an_evaluation_says(said, evaluation_run):
    assert said in card_of(evaluation_run())


def test_clean_commit_is_told_as_such(traces_run):
    run_dir = traces_run()
    update_record(run_dir, dirty=False)
    assert f"`{COMMIT}` |" in card_of(run_dir)
    assert "in no commit" not in card_of(run_dir)


def test_sandboxes_are_told(traces_run):
    run_dir = traces_run()
    update_record(run_dir, sandboxes={"local": "A", "e2b": None})
    assert "programs were run in: local (isolation of tier A), e2b." in card_of(run_dir)


def test_run_without_rewards_is_not_called_verified(traces_run):
    card = card_of(traces_run(rewards=None))
    assert "# Traces of ours.yaml" in card
    assert "no reward has judged" in card


def test_teacher_of_a_distillation_is_named_with_its_revision(traces_run):
    distill = {**GENERATE, "teacher": "org/teacher", "teacher_revision": "3c" * 20}
    run_dir = traces_run(
        step="distill",
        generate=None,
        distill=distill,
        trainer={"learning_rate": 1.0e-6},
        parents=False,
        model={"name": "org/student", "revision": "4d" * 20},
    )
    assert f"Model: `org/teacher` at revision `{'3c' * 20}`" in card_of(run_dir)


def test_weights_of_the_teacher_are_told_and_not_those_of_its_student(traces_run, tmp_path):
    models = tmp_path / "models"
    run_dir = traces_run(
        step="distill",
        generate=None,
        distill={**GENERATE, "teacher": str(models / "teacher")},
        trainer={"learning_rate": 1.0e-6},
        model={"name": str(models / "student")},
    )
    parents = [{"name": "models", "run": str(models), "weights_sha256": letter * 64} for letter in "ab"]
    update_record(run_dir, parents=parents)
    assert f"sha256 of its weights: `{'b' * 64}`" in card_of(run_dir)
    assert "a" * 64 not in card_of(run_dir)


@pytest.mark.parametrize(
    ("share", "text"), [(None, "–"), (0.0, "0.0 %"), (0.0004, "< 0.1 %"), (0.0006, "0.1 %"), (1.0, "100.0 %")]
)
def test_small_share_is_not_shown_as_none(share, text):
    assert percent(share) == text


def test_stage_is_told_with_its_pipeline(traces_run, tmp_path, write_recipe):
    run_dir = traces_run("runs/r1/rejection")
    stages = [{"name": "rejection", "recipe": str(TINY / "rejection_sampling.yaml")}]
    file = write_recipe("whole.yaml", step="pipeline", stages=stages)
    start_record(run_dir.parent, load_recipe(file), str(file), [])
    shutil.copy(file, run_dir.parent / "recipe.yaml")
    update_record(run_dir.parent, command=["/x/open_r1/launch.py", "pipeline", str(file), "seed=3"])
    card = card_of(run_dir)
    assert "recipes/tiny-r1/rejection_sampling.yaml, stage rejection of whole.yaml" in card
    assert "with the whole pipeline:\n\n    .venv/bin/python -m open_r1.launch pipeline whole.yaml seed=3\n" in card


def test_nothing_kept_leaves_the_prompts(traces_run, hub):
    run_dir = traces_run(dropped=["truncated"] * 8)
    assert push(run_dir) == 0
    head = DatasetCard(hub.files(REPO)["README.md"].decode()).data
    assert [(each["config_name"], each["default"]) for each in head.configs] == [("prompts", True)]
    assert "Nothing was kept" in card_of(run_dir)


@pytest.mark.parametrize("license_id", [None, "apache-2.0"])
def test_license_is_none_unless_given(license_id, traces_run):
    card = card_of(traces_run(), license_id=license_id)
    assert DatasetCard(card).data.get("license") == license_id
    assert ("has named no license" in card) == (license_id is None)


@pytest.mark.parametrize("of", ["run", "data"])
def test_decontamination_is_summed_up(of, traces_run, tmp_path):
    rows = tmp_path / "clean"
    run_dir = traces_run(data=[{"path": str(rows)}])
    report = {
        **{"source": str(tmp_path), "n": 8, "num_rows": 100, "num_matching_rows": 7, "num_clean_rows": 93},
        "matches": [{"words": "a secret"}],
        "benchmarks": {"aime24": {"num_problems": 30, "num_matched_problems": 3, "num_matching_rows": 7}},
    }
    folder = rows if of == "data" else run_dir
    folder.mkdir(exist_ok=True)
    (folder / "decontamination.json").write_text(json.dumps(report))
    card = card_of(run_dir)
    assert "of 100 rows that were looked at, 7 had 8 words in a row in\ncommon" in card
    assert "| aime24 | 30 | 3 | 7 |" in card
    assert ("`data.0`, before it was sampled" in card) == (of == "data")
    assert "a secret" not in card


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            {"name": "org/data", "config": "all", "split": "train", "revision": COMMIT, "fraction": 0.5},
            "[org/data](https://huggingface.co/datasets/org/data), revision `" + COMMIT + "`, config all, "
            "split train, fraction 0.5",
        ),
        (
            {"name": "org/data", "revision": None, "where": {"pass_rate": [0.1, 0.9]}, "fraction": 1.0},
            "[org/data](https://huggingface.co/datasets/org/data), revision not pinned, "
            'where {"pass_rate": \\[0.1, 0.9\\]}',
        ),
        ({"path": "rows.jsonl", "split": "train"}, "`rows.jsonl`, a file or folder that is not on the Hub"),
    ],
)
def test_source_of_prompts_is_told(source, text):
    assert _source_text(source) == text


# --- nothing of this machine


def texts_sent(publication) -> str:
    """All that is sent, tables as the texts in them."""
    parts = []
    for name, content in publication.files.items():
        data = content if isinstance(content, bytes) else content.read_bytes()
        if name.endswith(".parquet"):
            table = parquet.read_table(pyarrow.BufferReader(data))
            parts += [json.dumps(table.to_pylist()), str(table.schema.metadata)]
        else:
            parts.append(data.decode())
    return "\n".join(parts)


@pytest.mark.parametrize("kind", ["traces", "endpoint", "pairs", "evaluation"])
def test_no_path_of_this_machine_is_sent(kind, traces_run, pairs_run, evaluation_run, tmp_path):
    server = {"base_url": "http://10.1.2.3:8000/v1", "model": str(tmp_path / "weights" / "teacher")}
    if kind == "evaluation":
        copied = ENTRY | {"copy": {"path": str(tmp_path / "copies" / "aime24.jsonl"), "sha256": SHA256}}
        run_dir = evaluation_run({"base": {"aime24": copied}}, endpoint=server)
    elif kind == "pairs":
        run_dir = pairs_run()
    elif kind == "endpoint":
        run_dir = traces_run(model=None, parents=False, generate={**GENERATE, "endpoint": server})
    else:
        run_dir = traces_run(data=[{"path": str(tmp_path / "rows.jsonl")}], description=f"what {tmp_path}/x has")
    sent = texts_sent(publication_of(run_dir, REPO))
    for of_this_machine in (str(tmp_path), str(REPOSITORY), "10.1.2.3"):
        assert of_this_machine not in sent


def test_column_of_ours_gets_the_name_in_place_of_the_path_and_all_else_stays(traces_run, tmp_path):
    server = {"base_url": "http://10.1.2.3:8000/v1", "model": str(tmp_path / "weights" / "teacher")}
    run_dir = traces_run(model=None, parents=False, generate={**GENERATE, "endpoint": server})
    name = "kept/part-00000.parquet"
    file = run_dir / name
    table = parquet.read_table(file)
    column = table.column_names.index("teacher")
    table = table.set_column(column, "teacher", pyarrow.array([server["model"]] * table.num_rows))
    parquet.write_table(table, file)
    sent = parquet.read_table(pyarrow.BufferReader(publication_of(run_dir, REPO).files[name]))
    assert sent["teacher"].to_pylist() == ["teacher"] * table.num_rows
    assert sent.schema == table.schema
    assert sent.drop_columns("teacher") == table.drop_columns("teacher")


def test_path_in_a_column_of_the_data_is_refused(traces_run, tmp_path, capsys):
    assert push(traces_run(source=f"{tmp_path}/rows.jsonl", data=[{"path": str(tmp_path / "rows.jsonl")}])) == 2
    assert "column source holds" in the_line(capsys)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/a/run/model", "policy/model"),
        ("key=/home/a/run/kept/x", "key=policy/kept/x"),
        (str(TINY / "models" / "teacher"), "recipes/tiny-r1/models/teacher"),
        ("/data/my rows/x.jsonl", "x.jsonl"),
        ("see http://host/v1/models", "see http://host/v1/models"),
        ("</think>/x and 3/4/5", "</think>/x and 3/4/5"),
        ({"a": ["/data/weights/q", 1, None]}, {"a": ["q", 1, None]}),
    ],
)
def test_paths_become_names(text, shown, tmp_path):
    record = {"parents": [{"name": "policy", "run": "/home/a/run"}], "other": text}
    assert without_paths(text, names_of_paths(tmp_path, record)) == shown


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["generate", "/x/recipes/a b.yaml", "seed=1"], "generate 'a b.yaml' seed=1"),
        (["generate", str(TINY / "rejection_sampling.yaml")], "generate recipes/tiny-r1/rejection_sampling.yaml"),
        (["run", "a.yaml", "--runs", "/scratch/me/runs", "--share", "0/2"], "run a.yaml"),
        (["run", "a.yaml", "--submitted=/scratch/me/it", "keep.max_tokens=9"], "run a.yaml keep.max_tokens=9"),
        (["run", "a.yaml", "model.name=/scratch/me/q/model"], "run a.yaml model.name=/path/to/model"),
        (
            ["run", "a.yaml", f"model.name={TINY}/models/teacher"],
            "run a.yaml model.name=./recipes/tiny-r1/models/teacher",
        ),
        (
            ["run", "a.yaml", "generate.endpoint.base_url=http://10.0.0.1/v1"],
            "run a.yaml generate.endpoint.base_url=URL",
        ),
        (None, "generate a.yaml"),
    ],
)
def test_command_is_as_it_was_given_without_places(words, command, tmp_path):
    started_with = ["/x/open_r1/launch.py", *words] if words else ["/usr/lib/pytest"]
    record = {"step": "generate", "recipe_file": "a.yaml", "command": started_with}
    (tmp_path / "run.json").write_text(json.dumps(record))
    names = names_of_paths(tmp_path, record)
    assert command_of(tmp_path, names) == f".venv/bin/python -m open_r1.launch {command}"


# --- what cannot be published


@pytest.mark.parametrize(
    "said",
    [
        "# Preference pairs of ours.yaml",
        "| model | the-judge |",
        "| rubric | rubric.yaml |",
        "| verdicts on each answer | 3 |",
        "| verdicts that could not be read, and count as none | 1 |",
        "| score of the answer shown first, less that of the last | – |",
        "| standard deviation between verdicts on one answer | 0.512 |",
        "| correlation of score and length, among answers to one prompt | -0.",
        "rejected is the worst\nthat is worse by more than 1.0.\n",
        "| kept, a pair each | 2 | 66.7 % |",
        "| dropped: fewer than two scored answers | 1 | 33.3 % |",
        "Of 6 completions (63 tokens) these have no score: truncated 1.\n",
        "a chosen answer has 9.5 tokens and a rejected one\n9.5, in the mean; the chosen one is longer in 50.0 % of",
        "| margin | all | double | by how much they differ |",
        "| samples per prompt | 2 |",
    ],
)
def test_card_of_pairs_says(said, pairs_run):
    assert said in card_of(pairs_run())


@pytest.mark.parametrize(
    ("preferences", "said"),
    [
        ({"rejected": "random"}, "rejected is any\nthat is worse"),
        ({"max_length_ratio": 1.5}, "by more than 1.0 and within 1.5 times its length."),
        ({"balance_lengths": True}, "Pairs were dropped until"),
    ],
    ids=["random", "ratio", "balance"],
)
def test_card_of_pairs_says_what_makes_one(preferences, said, pairs_run):
    assert said in card_of(pairs_run(**preferences)) and said not in card_of(pairs_run())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"status": "running"}, "its status is running; only a run that is done can be published"),
        ({"step": "sft"}, "step sft: only runs of generate, distill, preferences, evaluate can be published"),
        ({"step": "grpo"}, "step grpo: only runs of generate, distill, preferences, evaluate can be published"),
    ],
)
def test_other_runs_are_refused(changes, said, traces_run, hub, capsys):
    run_dir = traces_run()
    update_record(run_dir, **changes)
    assert push(run_dir) == 2
    assert the_line(capsys).endswith(said)
    assert hub.requests == []


def test_pipeline_is_refused_with_its_stages(traces_run, capsys):
    run_dir = traces_run("runs/r1/rejection").parent
    (run_dir / "run.json").write_text(json.dumps({"step": "pipeline", "status": "done"}))
    assert push(run_dir) == 2
    assert the_line(capsys).endswith("name one of its stages (rejection)")


def test_folder_without_a_run_is_refused(tmp_path, capsys):
    assert push(tmp_path) == 2
    assert "run.json is missing" in the_line(capsys)


@pytest.mark.parametrize("missing", ["kept/part-00000.parquet", "prompts/part-00001.parquet", "generate.json"])
def test_half_a_run_is_refused(missing, traces_run, capsys):
    run_dir = traces_run()
    (run_dir / missing).unlink()
    assert push(run_dir) == 2
    assert "the run is not whole" in the_line(capsys)


@pytest.mark.parametrize(("start", "stop"), [(3, None), (-40, None), (4, 300)], ids=["all", "end", "pages"])
def test_torn_table_is_one_line(start, stop, traces_run, capsys):
    run_dir = traces_run()
    file = run_dir / "kept" / "part-00001.parquet"
    whole = file.read_bytes()
    torn = whole[start:stop]
    file.write_bytes(whole.replace(torn, b"\0" * len(torn) if stop else b""))
    assert push(run_dir) == 2
    assert "part-00001.parquet: cannot be read" in the_line(capsys)


def test_evaluation_without_its_answers_is_refused(evaluation_run, capsys):
    run_dir = evaluation_run()
    (run_dir / "completions" / "tuned-aime24.parquet").unlink()
    assert push(run_dir) == 2
    assert "tuned-aime24.parquet: missing" in the_line(capsys)


def test_benchmark_that_is_not_to_be_shown_stays_private(evaluation_run, hub, capsys):
    run_dir = evaluation_run({"base": {"gpqa_diamond": ENTRY}})
    assert push(run_dir) == 2
    assert "publish with --private" in the_line(capsys)
    assert push(run_dir, "--private") == 0


@pytest.mark.parametrize("name", ["traces", "me/two words", "a/b/c", "me/..", ""])
def test_name_that_is_none_is_refused(name, traces_run, capsys):
    assert push(traces_run(), to=name) == 2
    assert "write user/name" in the_line(capsys)


@pytest.mark.parametrize("arguments", [[], ["runs/x"], ["a", "b", "c"]])
def test_run_and_name_are_needed(arguments, capsys):
    assert main(arguments) == 2
    assert "make push RUN=runs/… TO=user/name" in the_line(capsys)


# --- what the Hub does not let us do


@pytest.mark.parametrize(
    ("token", "name", "said"),
    [
        (None, REPO, "there is no token for the Hub; run `hf auth login`, or set HF_TOKEN"),
        ("hf_unknown", REPO, "the Hub does not take the token; run `hf auth login`"),
        (READER, REPO, "the token may not write there"),
        (TOKEN, "others/traces", "the token may not write there"),
        (TOKEN, "me/model", "the name is taken by something that is no data set"),
    ],
)
def test_no_right_is_one_line(token, name, said, traces_run, hub, monkeypatch, capsys):
    hub.taken.add("me/model")
    monkeypatch.delenv("HF_TOKEN")
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    assert push(traces_run(), to=name) == 2
    line = the_line(capsys)
    assert line.startswith(f"TO {name}: {said}")
    assert "hf_unknown" not in line
    assert hub.datasets == {}


def test_network_that_is_gone_is_one_line(traces_run, at_the_hub, capsys):
    at_the_hub("http://127.0.0.1:9")
    assert push(traces_run()) == 2
    assert "the Hub could not be written to" in the_line(capsys)


def test_offline_is_one_line(traces_run, hub, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert push(traces_run()) == 2
    assert "HF_HUB_OFFLINE" in the_line(capsys)


def test_token_that_the_server_repeats_is_not_printed(traces_run, hub, capsys):
    hub.faults["POST", f"/api/datasets/{REPO}/commit"] = (500, f"the token {TOKEN} broke it")
    assert push(traces_run()) == 2
    assert "the token … broke it" in the_line(capsys)
    assert hub.files(REPO) == {}


def test_license_that_the_hub_does_not_know_is_one_line(traces_run, hub, capsys):
    assert push(traces_run(), "--license", "mine") == 2
    assert '"license" must be one of […]); see --license' in the_line(capsys)
    assert hub.files(REPO) == {}


def test_private_is_not_put_where_all_can_see_it(traces_run, hub, capsys):
    run_dir = traces_run()
    push(run_dir)
    capsys.readouterr()
    assert push(run_dir, "--private") == 2
    assert "it is there, and public" in the_line(capsys)
    assert len(hub.datasets[REPO].commits) == 1


@pytest.mark.parametrize("there", ["of others", "of another kind"])
def test_something_else_is_not_written_over(there, traces_run, evaluation_run, hub, capsys):
    push(evaluation_run())
    if there == "of others":
        hub.datasets[REPO].files = {"README.md": b"# My data\n", "kept/mine.parquet": b"x"}
    before = dict(hub.datasets[REPO].files)
    capsys.readouterr()
    assert push(traces_run()) == 2
    assert "something else is there" in the_line(capsys)
    assert hub.datasets[REPO].files == before


def test_head_of_a_card_is_yaml_whatever_the_recipe_says(traces_run):
    card = card_of(traces_run(description="a: b --- | `c`\n---\n# d"))
    assert yaml.safe_load(card.split("---\n")[1])["configs"]
