"""Run records -> what fed what: stages, and the models and data that came from outside.

A stage that has run is taken at its record's word (`parents`), and for what came from outside at its recipe's. One that
has not begun is drawn as its recipe means it to be fed.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

from open_r1.recipe import STAGE_REFERENCE
from open_r1.recipe.loop import references_in, stage_named
from open_r1.report.reading import Run, stage_settings

What = Literal["model", "data"]
NUM_PARTS_SHOWN = 2  # of a path


@dataclass(frozen=True)
class Source:
    """A model or data that no stage of the pipeline made. `name` is whole, `label` is what fits a small box."""

    what: What
    name: str
    label: str


Node = str | Source  # a stage by its name


@dataclass(frozen=True)
class Edge:
    """`parent` feeds `stage` with a model, or with data; `recorded` is False for what has not happened yet."""

    parent: Node
    stage: str
    what: What
    recorded: bool
    sha256: str | None = None


@dataclass(frozen=True)
class Graph:
    """Every stage of a pipeline with its sources. No edge leads back."""

    stages: list[Run]
    edges: list[Edge]

    def sources_of(self, stage: str) -> tuple[Source, ...]:
        """What comes from outside into a stage."""
        edges = [edge for edge in self.edges if edge.stage == stage]
        return tuple(edge.parent for edge in edges if isinstance(edge.parent, Source))

    def layers(self) -> dict[str, int]:
        """For each stage its longest path from a stage without parents, which is in layer 0."""
        layer_of: dict[str, int] = {}
        for stage in self.stages:
            parents = [edge.parent for edge in self.edges if edge.stage == stage.name and isinstance(edge.parent, str)]
            layer_of[stage.name] = max((layer_of[parent] + 1 for parent in parents), default=0)
        return layer_of

    def told_parents(self, stage: str) -> str:
        """What feeds a stage, in words; nothing if nothing does."""
        edges = [edge for edge in self.edges if edge.stage == stage]
        told = [
            f"the {edge.what} of {edge.parent}" if isinstance(edge.parent, str) else f"{edge.what} {edge.parent.name}"
            for edge in edges
        ]
        return ", ".join(told)


def graph_of(run: Run, stages: list[Run], notes: list[str]) -> Graph:
    """The graph of a pipeline's stages; a parent that stands behind its child is left out, with a note."""
    edges: dict[tuple[Node, str, What], Edge] = {}
    earlier: set[str] = set()
    for stage in stages:
        for edge in _edges_into(run, stage, {each.name for each in stages}):
            if isinstance(edge.parent, str) and edge.parent not in earlier:
                notes.append(f"{stage.name}: its parent {edge.parent} stands behind it, so the graph leaves that out")
                continue
            edges.setdefault((edge.parent, edge.stage, edge.what), edge)
        earlier.add(stage.name)
    return Graph(stages, list(edges.values()))


def _edges_into(run: Run, stage: Run, names: set[str]) -> Iterator[Edge]:
    recorded = bool(stage.record)
    parents = [parent for parent in stage.record.get("parents") or [] if isinstance(parent, Mapping)]
    stage_parents = [parent for parent in parents if _is_stage(parent, names)]
    for parent in stage_parents:
        what: What = "data" if parent.get("data_sha256") else "model"
        yield Edge(_name(parent), stage.name, what, recorded, parent.get("data_sha256") or parent.get("weights_sha256"))
    for what, name in _inputs(stage.recipe):
        maker = _stage_that_made(name, run, names)
        if maker is None and not any(_lies_in(name, parent.get("run")) for parent in stage_parents):
            yield Edge(Source(what, name, _short(name)), stage.name, what, recorded)
        elif maker is not None and not any(_name(parent) == maker for parent in stage_parents):
            yield Edge(maker, stage.name, what, recorded)
    for parent in parents if not stage.recipe else ():  # of a record that lost its recipe
        if parent not in stage_parents:
            what = "data" if parent.get("data_sha256") else "model"
            name = str(parent.get("run") or _name(parent))
            yield Edge(Source(what, name, _short(name)), stage.name, what, recorded)
    if not recorded:
        for key, reference in references_in(stage_settings(run, stage.name).get("set") or {}).items():
            if (name := stage_named(reference)) in names:
                yield Edge(name, stage.name, "data" if key.endswith(".path") else "model", recorded)


def _inputs(recipe: Mapping[str, Any]) -> Iterator[tuple[What, str]]:
    """What a recipe reads: models and data as they are written there, `stage:x` among them."""
    evaluate = recipe.get("evaluate") or {}
    models = [] if evaluate.get("models") else [(recipe.get("model") or {}).get("name")]
    models += [(recipe.get("distill") or {}).get("teacher"), *(evaluate.get("models") or {}).values()]
    models += [(recipe.get("judge") or {}).get("name")]
    models += [reward.get("model") for reward in recipe.get("rewards") or []]
    yield from (("model", str(name)) for name in models if name)
    for source in recipe.get("data") or []:
        name = source.get("name") or source.get("path") or (source.get("procedural") or {}).get("family")
        if name:
            yield "data", str(name)


def _name(parent: Mapping[str, Any]) -> str:
    return str(parent.get("name") or parent.get("stage"))


def _is_stage(parent: Mapping[str, Any], names: set[str]) -> bool:
    """A run from outside may be called like a stage; its directory is not."""
    name, run = _name(parent), parent.get("run")
    return name in names and (not run or PurePath(str(run)).name == name)


def _stage_that_made(name: str, run: Run, names: set[str]) -> str | None:
    """The stage that a model or data path of a recipe belongs to, None if it is from outside."""
    if name.startswith(STAGE_REFERENCE):
        stage = stage_named(name)
    else:
        path, folder = PurePath(name), run.folder.resolve()
        stage = path.relative_to(folder).parts[0] if path != folder and path.is_relative_to(folder) else None
    return stage if stage in names else None


def _lies_in(name: str, folder: Any) -> bool:
    return bool(folder) and PurePath(name).is_relative_to(PurePath(str(folder)))


def _short(name: str) -> str:
    """A Hub id as it is, of a path its end."""
    return "/".join(PurePath(name).parts[-NUM_PARTS_SHOWN:]).lstrip("./") or name
