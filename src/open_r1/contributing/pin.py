"""`make pin RECIPE=…`: the commit that every model and data set of a recipe is at now, asked of the Hub and written in.

The YAML is edited where a revision is missing, comments and layout stay; recipes/hub gets the commits it has not, and
an entry for a model that it does not know. Everything is asked before anything is written; of a pipeline, its stages'
recipes, one after the other. `--check` asks and writes nothing, and says what is not pinned.
"""

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from open_r1.places import HUB
from open_r1.recipe import STAGE_REFERENCE, Recipe, RecipeError, is_path, load_recipe
from open_r1.rewards import models_of_rewards

# Fields of a config.json that decide shapes: what recipes/hub/models.yaml keeps of it.
CONFIG_FIELDS = (
    *("model_type", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "head_dim", "vocab_size", "tie_word_embeddings", "attention_bias", "layer_types"),
    *("max_position_embeddings", "rope_theta", "rope_scaling"),
    *("num_experts", "num_local_experts", "n_routed_experts", "n_shared_experts", "num_experts_per_tok", "n_group"),
    *("topk_group", "routed_scaling_factor", "norm_topk_prob", "moe_intermediate_size", "first_k_dense_replace"),
    *("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"),
)
READ_FROM = "config.json and tokenizer_config.json of that commit, read by `make pin`"
HUB_FILES = {"model": "models.yaml", "dataset": "datasets.yaml"}


@dataclass(frozen=True)
class Named:
    """A model or data set that a recipe names, and where: the key of its name, and that of its revision beside it."""

    kind: str
    """model or dataset."""
    name: str
    parent: tuple[str | int, ...]
    """Keys down to the mapping that both stand in."""
    name_key: str
    revision_key: str
    revision: str | None

    @property
    def key(self) -> str:
        """The dotted key of the revision."""
        return ".".join(map(str, (*self.parent, self.revision_key)))


def named_in(recipe: Recipe) -> Iterator[Named]:
    """Every model and data set of the Hub that a recipe names where it can also give a revision."""
    models = []
    if recipe.model.name:
        models.append((recipe.model.name, ("model",), "name", "revision", recipe.model.revision))
    if recipe.distill:
        distill = recipe.distill
        models.append((distill.teacher, ("distill",), "teacher", "teacher_revision", distill.teacher_revision))
    if recipe.judge and recipe.judge.name:
        models.append((recipe.judge.name, ("judge",), "name", "revision", recipe.judge.revision))
    for index, name in models_of_rewards(recipe):
        revision = recipe.rewards[index].parameters.get("revision")
        models.append((name, ("rewards", index), "model", "revision", revision))
    for name, *where in models:
        if not is_path(name) and not name.startswith(STAGE_REFERENCE):
            yield Named("model", name, *where)
    for section in ("data", "eval_data"):
        for index, source in enumerate(getattr(recipe, section)):
            if source.name:
                yield Named("dataset", source.name, (section, index), "name", "revision", source.revision)


def pinned_files(file: Path) -> list[Path]:
    """The recipe, or the recipes of a pipeline's stages, each once."""
    recipe = load_recipe(file)
    if recipe.step != "pipeline":
        return [file]
    return list(dict.fromkeys(Path(os.path.relpath(recipe.path(stage.recipe))) for stage in recipe.stages))


def pin(file: Path, hub: Path) -> list[str]:
    """Writes the missing revisions; a line for each that was written, or that has to be written by hand.

    Raises RecipeError, and has written nothing, if the Hub cannot be asked or does not know one of the names.
    """
    named = list(named_in(load_recipe(file)))
    commits = {(one.kind, one.name): one.revision for one in named if one.revision}
    for one in named:
        if one.revision is None and (one.kind, one.name) not in commits:
            commits[one.kind, one.name] = _asked(f"{file}: {one.key}", one.name, lambda api, o=one: _commit(api, o))
    lines: list[str] = []
    text = _read(file)
    missing = {one.parent: one for one in named if one.revision is None}
    texts = {file: with_values(file, text, [(*_place(one), commits[one.kind, one.name]) for one in missing.values()])}
    lines += [f"{file}: {one.key}: {commits[one.kind, one.name]} ({one.name})" for one in missing.values()]
    for kind, hub_file in HUB_FILES.items():
        new, said = _hub_text(
            hub / hub_file, kind, {name: commit for (k, name), commit in commits.items() if k == kind}
        )
        texts[hub / hub_file] = new
        lines += said
    for path, new in texts.items():
        if new != _read(path):
            path.write_bytes(new.encode())
    return lines


def _place(one: Named) -> tuple[tuple[str | int, ...], str, tuple[str, ...]]:
    return one.parent, one.revision_key, (one.name_key, "config", "split")


def _hub_text(file: Path, kind: str, commits: Mapping[str, str]) -> tuple[str, list[str]]:
    """The text of a file of recipes/hub with these commits where it has none, and what was done."""
    text = _read(file)
    entries = yaml.safe_load(text) or {}
    unpinned = [name for name in commits if name in entries and entries[name].get("revision") is None]
    new = with_values(file, text, [((name,), "revision", ("source",), commits[name]) for name in unpinned])
    lines = [f"{file}: {name}.revision: {commits[name]}" for name in unpinned]
    for name in (name for name in commits if name not in entries):
        if kind == "dataset":
            lines.append(
                f"{file}: {name}: nothing is known of it; add it, with a fixture of a few rows, for a rehearsal"
            )
            continue
        entry = _asked(f"{file}: {name}", name, lambda api, n=name: model_entry(api, n, commits[n]))
        written = yaml.safe_dump({name: entry}, sort_keys=False, allow_unicode=True, width=116, default_flow_style=None)
        new = (new if new.endswith("\n") or not new else new + "\n") + written
        lines.append(f"{file}: {name}: added")
    return new, lines


# --- What the Hub says


def _asked(where: str, name: str, question: Callable[[Any], Any]) -> Any:
    """The Hub's answer. Raises RecipeError with one line if there is none."""
    from httpx import HTTPError
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HFValidationError,
        RemoteEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        return question(HfApi())
    except GatedRepoError:
        raise RecipeError(f"{where}: {name} is gated; accept its terms on the Hub and run `hf auth login`") from None
    except (RepositoryNotFoundError, HFValidationError):
        raise RecipeError(
            f"{where}: the Hub has no {name}, or it is private; check the name, or `hf auth login`"
        ) from None
    except RemoteEntryNotFoundError:
        raise RecipeError(f"{where}: {name} has no config or no tokenizer; add the entry by hand") from None
    except (HTTPError, OSError) as error:
        reason = _first_line(error)
        raise RecipeError(f"{where}: the Hub cannot be asked for {name} ({reason}); nothing was written") from None


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _commit(api: Any, one: Named) -> str:
    return (api.model_info if one.kind == "model" else api.dataset_info)(one.name).sha


def model_entry(api: Any, name: str, commit: str) -> dict[str, Any]:
    """What recipes/hub/models.yaml says of a model: its commit, its shapes and its special tokens."""
    with tempfile.TemporaryDirectory() as scratch:
        config, tokenizer = (
            json.loads(Path(api.hf_hub_download(name, part, revision=commit, local_dir=scratch)).read_text("utf-8"))
            for part in ("config.json", "tokenizer_config.json")
        )
    shapes = {key: config[key] for key in CONFIG_FIELDS if config.get(key) is not None}
    return {"revision": commit, "source": READ_FROM, "config": shapes, "tokens": _tokens(name, tokenizer)}


def _tokens(name: str, tokenizer: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens that a tokenizer_config.json names, and those that its chat template writes."""
    tokens = {short: _content(tokenizer.get(f"{short}_token")) for short in ("bos", "eos", "pad")}
    if tokens["eos"] is None:
        raise RecipeError(
            f"{name}: tokens.eos: its tokenizer_config.json names none; add the entry to models.yaml by hand"
        )
    template = json.dumps(tokenizer.get("chat_template") or "", ensure_ascii=False)
    added = (tokenizer.get("added_tokens_decoder") or {}).values()
    in_template = [token["content"] for token in added if token.get("special") and token["content"] in template]
    special = list(dict.fromkeys([token for token in tokens.values() if token] + in_template))
    return {**tokens, "special": special}


def _content(token: Any) -> str | None:
    return token["content"] if isinstance(token, dict) else token


# --- An edit of a YAML file that leaves everything else as it was


def with_values(file: Path, text: str, values: list[tuple[tuple[str | int, ...], str, tuple[str, ...], str]]) -> str:
    """The text with each `(keys of a mapping, key, keys that it goes behind, value)` set.

    A value that is there is replaced; else the key goes behind the last of those that are there. Raises RecipeError,
    rather than to change anything else, where the layout does not allow it.
    """
    edits: dict[tuple[int, int], str] = {}
    expected = yaml.safe_load(text)
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    for parent, key, behind, value in values:
        where = f"{file}: {'.'.join(map(str, (*parent, key)))}"
        node, section = root, expected
        for part in parent:
            node, section = _inside(node, part), section[part]
        if not isinstance(node, yaml.MappingNode):
            raise RecipeError(f"{where}: it cannot be written there; write {value} by hand")
        section[key] = value
        written = value if yaml.safe_load(value) == value else f"'{value}'"  # one of digits alone is a number to YAML
        pairs = {key_node.value: (key_node, value_node) for key_node, value_node in node.value}
        if key in pairs:
            _, old = pairs[key]
            edits[old.start_mark.index, old.end_mark.index] = (
                written if old.end_mark.index > old.start_mark.index else f" {written}"
            )
            continue
        key_node, value_node = max(
            (pairs[name] for name in behind if name in pairs),
            key=lambda pair: pair[0].start_mark.index,
            default=(None, None),
        )
        if key_node is None:
            raise RecipeError(f"{where}: it cannot be written there; write {value} by hand")
        if node.flow_style:
            edits[value_node.end_mark.index, value_node.end_mark.index] = f", {key}: {written}"
        else:
            end_of_line = text.find("\n", value_node.end_mark.index)
            end_of_line = len(text) if end_of_line < 0 else end_of_line
            return_mark = "\r" if text[:end_of_line].endswith("\r") else ""
            position = end_of_line - len(return_mark)
            edits[position, position] = f"{return_mark}\n{' ' * key_node.start_mark.column}{key}: {written}"
    new = text
    for (start, end), edit in sorted(edits.items(), reverse=True):
        new = new[:start] + edit + new[end:]
    try:
        is_meant = yaml.safe_load(new) == expected
    except yaml.YAMLError:
        is_meant = False
    if not is_meant:
        raise RecipeError(f"{file}: its layout does not let revisions be written; write them by hand")
    return new


def _inside(node: yaml.Node | None, part: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
        return node.value[part]
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == part), None)
    return None


def _read(file: Path) -> str:
    """The text, line ends as they are."""
    return file.read_bytes().decode()


def main(arguments: list[str]) -> int:
    """Exit code 0; 1 if `--check` found something that is not pinned; 2 with one line, and nothing is written."""
    files = [argument for argument in arguments if argument != "--check"]
    if len(files) != 1:
        print("make pin needs a recipe: make pin RECIPE=recipes/…/….yaml", file=sys.stderr)
        return 2
    file = Path(files[0])
    try:
        files = pinned_files(file)
        if "--check" in arguments:
            unpinned = [(each, one) for each in files for one in named_in(load_recipe(each)) if one.revision is None]
            for each, one in unpinned:
                print(
                    f"{each}: {one.key}: missing; `make pin RECIPE={each}` writes that of {one.name}", file=sys.stderr
                )
            return 1 if unpinned else 0
        lines = [line for each in files for line in pin(each, HUB)]
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(lines) or f"{file}: everything is pinned")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
