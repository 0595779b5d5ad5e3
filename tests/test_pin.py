"""`make pin`: the real client asks a server of this test's; a recipe gets its commits, and keeps all else."""

import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml
from conftest import REPOSITORY

from open_r1.contributing import pin
from open_r1.hub import HubModel
from open_r1.recipe import RecipeError

MODEL, TEACHER, NEW, DATA = "1a" * 20, "2b" * 20, "3c" * 20, "4d" * 20
COMMITS = {
    "models/org/model": MODEL,
    "models/org/teacher": TEACHER,
    "models/org/new": NEW,
    "models/org/broken": NEW,
    "datasets/org/data": DATA,
}
CONFIG = {"model_type": "llama", "hidden_size": 64, "vocab_size": 512, "hidden_act": "silu", "head_dim": None}
TOKENIZER = {
    "bos_token": None,
    "eos_token": {"content": "<|end|>"},
    "pad_token": "<|pad|>",
    "chat_template": "<|user|>{{ messages }}",
    "added_tokens_decoder": {
        "1": {"content": "<|user|>", "special": True},
        "2": {"content": "<|reserved|>", "special": True},
    },
}
FILES = {"config.json": CONFIG, "tokenizer_config.json": TOKENIZER}
FILE_URL = "/{repo_id}/resolve/{revision}/{filename}"
HUB_MODELS = """\
# what is known
org/model:
  revision: null   # not looked up
  source: nobody
org/teacher:
  revision: {teacher}
  source: nobody
"""
HUB_DATASETS = "org/data:\n  revision: null\n  source: nobody\n"

BLOCK = """\
# a recipe
step: grpo
model:
  name: org/model   # the policy
  dtype: bfloat16
data:
  - {name: org/data, split: train}   # rows
  - name: org/data
    split: test   # others
    columns: {prompt: problem}
rewards: [format]
trainer: {learning_rate: 1.0e-6}
"""
PINNED_BLOCK = f"""\
# a recipe
step: grpo
model:
  name: org/model   # the policy
  revision: {MODEL}
  dtype: bfloat16
data:
  - {{name: org/data, split: train, revision: {DATA}}}   # rows
  - name: org/data
    split: test   # others
    revision: {DATA}
    columns: {{prompt: problem}}
rewards: [format]
trainer: {{learning_rate: 1.0e-6}}
"""
SFT = "step: sft\nmodel: {model}\ndata: {data}\ntrainer: {{learning_rate: 1.0e-6}}\n"
PINNED = f"{{name: org/model, revision: {MODEL}}}"
PATH = "[{path: rows.jsonl}]"
DISTILL = """\
step: distill
model: {{name: ./here}}
data: [{{path: rows.jsonl}}]
rewards: [format]
trainer: {{learning_rate: 1.0e-6}}
distill:
  teacher: org/teacher
{revision}  max_completion_length: 8
"""
RATED = """\
step: grpo
model: {{name: ./here}}
data: [{{path: rows.jsonl}}]
rewards:
  - format
  - name: reward_model
    model: org/model
{of_reward}  - {{name: judge, rubric: rubric.yaml}}
judge: {{name: org/teacher{of_judge}}}
trainer: {{learning_rate: 1.0e-6}}
"""


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub does: what a repository's commit is, and its files."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].strip("/")
        for name, commit in COMMITS.items():
            if path == f"api/{name}":
                return self.answer(json.dumps({"id": name.partition("/")[2], "sha": commit}).encode())
            for file, values in FILES.items():
                if path == f"{name.removeprefix('models/')}/resolve/{commit}/{file}" and "broken" not in name:
                    return self.answer(json.dumps(values).encode(), {"ETag": f'"{file}"', "X-Repo-Commit": commit})
        error = "EntryNotFound" if "/resolve/" in path else "RepoNotFound"
        return self.answer(b"{}", {"X-Error-Code": error}, status=404)

    do_HEAD = do_GET

    def answer(self, body: bytes, headers: dict[str, str] | None = None, status: int = 200) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a Hub of this test's own."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def hub(tmp_path, server, monkeypatch) -> Path:
    """recipes/hub as it is here; and the client asks the server of the test."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "models.yaml").write_text(HUB_MODELS.format(teacher="5e" * 20), encoding="utf-8")
    (folder / "datasets.yaml").write_text(HUB_DATASETS, encoding="utf-8")
    for name, value in {"ENDPOINT": server, "HUGGINGFACE_CO_URL_TEMPLATE": server + FILE_URL}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)  # both are read from HF_ENDPOINT at import
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(pin, "HUB", folder)
    return folder


@pytest.fixture
def recipe(tmp_path, hub):
    """A recipe with this text."""

    def of(text: str) -> Path:
        file = tmp_path / "recipe.yaml"
        file.write_bytes(text.encode())
        return file

    return of


@pytest.mark.parametrize(
    ("text", "pinned"),
    [
        (BLOCK, PINNED_BLOCK),
        (BLOCK.replace("\n", "\r\n"), PINNED_BLOCK.replace("\n", "\r\n")),
        (PINNED_BLOCK, PINNED_BLOCK),
        (
            SFT.format(model="{name: org/model}   # c", data=PATH),
            SFT.format(model=f"{{name: org/model, revision: {MODEL}}}   # c", data=PATH),
        ),
        (
            SFT.format(model='{name: "org/model", revision: null, dtype: float32}', data=PATH),
            SFT.format(model=f'{{name: "org/model", revision: {MODEL}, dtype: float32}}', data=PATH),
        ),
        (
            SFT.format(model=PINNED, data="[{name: org/data, config: all}]"),
            SFT.format(model=PINNED, data=f"[{{name: org/data, config: all, revision: {DATA}}}]"),
        ),
        (
            SFT.format(model="\n    revision:\n    name: org/model", data=PATH),
            SFT.format(model=f"\n    revision: {MODEL}\n    name: org/model", data=PATH),
        ),
        (DISTILL.format(revision=""), DISTILL.format(revision=f"  teacher_revision: {TEACHER}\n")),
        (
            RATED.format(of_reward="", of_judge=""),
            RATED.format(of_reward=f"    revision: {MODEL}\n", of_judge=f", revision: {TEACHER}"),
        ),
        (SFT.format(model="{name: ./here}", data=PATH), SFT.format(model="{name: ./here}", data=PATH)),
        (
            BLOCK.rstrip("\n").replace("step: grpo\n", "") + "\nstep: grpo",
            PINNED_BLOCK.rstrip("\n").replace("step: grpo\n", "") + "\nstep: grpo",
        ),
    ],
    ids=["block", "crlf", "pinned", "flow", "null", "config", "empty", "teacher", "judge", "path", "no_newline_at_end"],
)
def test_revisions_are_written_and_nothing_else_changes(text, pinned, recipe):
    file = recipe(text)
    assert pin.main([str(file)]) == 0
    assert file.read_bytes().decode() == pinned


def test_data_of_evaluation_is_pinned(recipe):
    evaluated = BLOCK.replace("1.0e-6", "1.0e-6, eval_strategy: steps, eval_steps: 5")
    file = recipe(evaluated + "eval_data:\n  - {name: org/data, split: held}\n")
    assert pin.main([str(file)]) == 0
    assert file.read_text(encoding="utf-8").endswith(f"{{name: org/data, split: held, revision: {DATA}}}\n")


def test_name_in_the_last_line_without_its_end_is_pinned(recipe):
    file = recipe("step: sft\ndata: [{path: rows.jsonl}]\ntrainer: {learning_rate: 1.0e-6}\nmodel:\n  name: org/model")
    assert pin.main([str(file)]) == 0
    assert file.read_text(encoding="utf-8").endswith(f"\n  name: org/model\n  revision: {MODEL}")


def test_unpinned_entries_of_the_hub_files_are_filled_and_the_others_kept(recipe, hub):
    assert pin.main([str(recipe(BLOCK))]) == 0
    models = (hub / "models.yaml").read_text(encoding="utf-8")
    assert models == HUB_MODELS.format(teacher="5e" * 20).replace("revision: null", f"revision: {MODEL}")
    datasets = (hub / "datasets.yaml").read_text(encoding="utf-8")
    assert datasets == HUB_DATASETS.replace("null", DATA)


def test_pinned_entry_of_the_hub_files_stays(recipe, hub):
    assert pin.main([str(recipe(DISTILL.format(revision="")))]) == 0
    assert (hub / "models.yaml").read_text(encoding="utf-8") == HUB_MODELS.format(teacher="5e" * 20)


def test_commit_that_the_recipe_has_fills_the_hub_file(recipe, hub):
    other = "6f" * 20
    assert pin.main([str(recipe(SFT.format(model=f"{{name: org/model, revision: {other}}}", data=PATH)))]) == 0
    assert yaml.safe_load((hub / "models.yaml").read_text(encoding="utf-8"))["org/model"]["revision"] == other


def test_unknown_model_gets_an_entry(recipe, hub):
    assert pin.main([str(recipe(SFT.format(model="{name: org/new}", data=PATH)))]) == 0
    text = (hub / "models.yaml").read_text(encoding="utf-8")
    assert text.startswith(HUB_MODELS.format(teacher="5e" * 20))
    entry = HubModel.model_validate(yaml.safe_load(text)["org/new"])
    assert entry.revision == NEW
    assert entry.config == {"model_type": "llama", "hidden_size": 64, "vocab_size": 512}
    assert (entry.tokens.bos, entry.tokens.eos, entry.tokens.pad) == (None, "<|end|>", "<|pad|>")
    assert entry.tokens.special == ["<|end|>", "<|pad|>", "<|user|>"]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("org/none", "model.revision: the Hub has no org/none, or it is private"),
        ("org/broken", "org/broken has no config or no tokenizer; add the entry by hand"),
        ("none/of/these", "model.revision: the Hub has no none/of/these"),
    ],
)
def test_unknown_repository_is_one_line_and_nothing_is_written(model, said, recipe, hub, capsys):
    text = SFT.format(model=f"{{name: {model}}}", data="[{name: org/data}]")
    file = recipe(text)
    before = {path: path.read_bytes() for path in hub.iterdir()}
    assert pin.main([str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert file.read_text(encoding="utf-8") == text
    assert {path: path.read_bytes() for path in hub.iterdir()} == before


@pytest.mark.parametrize(("constant", "value"), [("HF_HUB_OFFLINE", True), ("ENDPOINT", "http://127.0.0.1:9")])
def test_offline_is_one_line_and_nothing_is_written(constant, value, recipe, monkeypatch, capsys):
    monkeypatch.setattr(huggingface_hub.constants, constant, value)
    file = recipe(BLOCK)
    assert pin.main([str(file)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "model.revision: the Hub cannot be asked for org/model" in line
    assert file.read_text(encoding="utf-8") == BLOCK


@pytest.mark.parametrize(("text", "code", "num_lines"), [(BLOCK, 1, 3), (PINNED_BLOCK, 0, 0)])
def test_check_says_what_is_not_pinned_and_writes_nothing(text, code, num_lines, recipe, capsys, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    file = recipe(text)
    assert pin.main([str(file), "--check"]) == code
    assert len(capsys.readouterr().err.splitlines()) == num_lines
    assert file.read_text(encoding="utf-8") == text


def test_stages_of_a_pipeline_are_pinned_each_once(recipe, tmp_path):
    file = recipe(BLOCK)
    pipeline = tmp_path / "pipeline.yaml"
    stages = [{"name": name, "recipe": file.name, "set": {}} for name in ("first", "second")]
    pipeline.write_text(yaml.safe_dump({"step": "pipeline", "stages": stages}))
    assert pin.main([str(pipeline), "--check"]) == 1
    assert pin.main([str(pipeline)]) == 0
    assert file.read_text(encoding="utf-8") == PINNED_BLOCK
    assert pin.main([str(pipeline), "--check"]) == 0


@pytest.mark.parametrize(
    ("text", "parent", "said"),
    [
        ("model: {dtype: float32}", ("model",), "model.revision: it cannot be written there; write c0ffee by hand"),
        ("model: org/model", ("model",), "model.revision: it cannot be written there; write c0ffee by hand"),
        ("model: {name: a, revision: &x null}\nother: *x", ("model",), "its layout does not let revisions be written"),
    ],
)
def test_layout_that_cannot_be_edited_is_told(text, parent, said):
    with pytest.raises(RecipeError, match=said):
        pin.with_values(Path("recipe.yaml"), text, [(parent, "revision", ("name",), "c0ffee")])


def test_commit_of_digits_alone_stays_text():
    text = pin.with_values(Path("recipe.yaml"), "{name: org/model}", [((), "revision", ("name",), "1" * 40)])
    assert yaml.safe_load(text)["revision"] == "1" * 40


@pytest.mark.parametrize("arguments", [[], ["a.yaml", "b.yaml"]])
def test_one_recipe_is_needed(arguments, capsys):
    assert pin.main(arguments) == 2
    assert "make pin needs a recipe" in capsys.readouterr().err


def test_hub_files_of_the_repository_can_be_edited(tmp_path):
    for file in pin.HUB_FILES.values():
        copy = Path(shutil.copy(REPOSITORY / "recipes" / "hub" / file, tmp_path))
        text = copy.read_text(encoding="utf-8")
        values = [((name,), "revision", ("source",), "7a" * 20) for name in yaml.safe_load(text)]
        edited = pin.with_values(copy, text, values)
        assert len(edited.splitlines()) == len(text.splitlines())
        assert edited.count("7a" * 20) == len(values)
