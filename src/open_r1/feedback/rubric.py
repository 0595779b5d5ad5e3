"""What a judge looks at: principles with weights, a scale, and how much of an answer it sees."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from pydantic import Field, PrivateAttr, ValidationError, field_validator

from open_r1.recipe import RecipeError, Thinking
from open_r1.recipe.reading import read_mapping
from open_r1.recipe.sections import Section
from open_r1.rewards.completion import after_thinking
from open_r1.wording import NUMBER, closest, number_for_yaml

MISSING = "no such rubric; give a .yaml file beside the recipe"
MARKED = ("marked_question", "marked_messages")
TEMPLATE_VARIABLES = ("principles", "scale", "question", "messages", "answers", "labels", *MARKED)
TEMPLATES = ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined, extensions=["jinja2.ext.loopcontrols"]
)


class Principle(Section):
    """One thing that answers are judged by."""

    name: str = Field(pattern=r"^[a-z0-9_]+$")
    """Its key in a verdict."""
    weight: float = Field(default=1.0, gt=0, le=1e9, allow_inf_nan=False)
    """Its share of the score, relative to the weights of the others."""
    text: str
    """What the judge is told of it."""


class Rubric(Section):
    """What a judge looks at, and on which scale it scores."""

    description: str
    """What is judged, in a sentence; the judge reads it first."""
    scale: list[int] = Field(default=[1, 10], min_length=2, max_length=2)
    """Lowest and highest score, whole numbers."""
    sees: Literal["answer", "whole"] = "whole"
    """The whole completion, its thinking too, or only the answer, which follows the thinking."""
    principles: list[Principle] = Field(min_length=1)
    template: str | None = None
    """A .jinja file beside the rubric that writes the user's message in place of ours; there is no system message then,
    for small judges that know none. It gets principles, scale, labels, answers, messages and question, the last of the
    user's. Marks stand around the answers alone: a question that imitates them can pass for one, unless the template
    shows marked_messages (a text each) or marked_question in place of messages and question."""
    _source: Path = PrivateAttr(default=Path("rubric.yaml"))
    _template_text: str | None = PrivateAttr(default=None)

    @field_validator("scale")
    @classmethod
    def _scale_rises(cls, scale: list[int]) -> list[int]:
        if scale[0] >= scale[1]:
            raise ValueError(f"{scale} has no score between; write [lowest, highest], e.g. [1, 10]")
        return scale

    @field_validator("principles")
    @classmethod
    def _names_differ(cls, principles: list[Principle]) -> list[Principle]:
        names = [principle.name for principle in principles]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two are named {twice[0]}; a verdict tells them apart by their names")
        return principles

    @property
    def source(self) -> Path:
        """The file that the rubric was read from."""
        return self._source

    @property
    def template_text(self) -> str | None:
        """The text of the template; None without one."""
        return self._template_text

    @property
    def lowest(self) -> int:
        return self.scale[0]

    @property
    def highest(self) -> int:
        return self.scale[1]

    @property
    def names(self) -> list[str]:
        """The principles' names, in order."""
        return [principle.name for principle in self.principles]

    @property
    def sha256(self) -> str:
        """Hash of what the rubric says, its template included, wherever the files lie. Defaults do not count."""
        values = self.model_dump(mode="json", exclude_defaults=True) | {"template": self.template_text}
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def score(self, scores: Mapping[str, int]) -> float:
        """The mean of the principles' scores by their weights, on the scale."""
        weights = [principle.weight for principle in self.principles]
        return sum(w * scores[name] for w, name in zip(weights, self.names, strict=True)) / sum(weights)

    def share(self, score: float) -> float:
        """A score as a share of the scale, from 0.0 (lowest) to 1.0 (highest)."""
        return (score - self.lowest) / (self.highest - self.lowest)

    def seen(self, completion: str, thinking: Thinking = Thinking()) -> str | None:
        """What the judge sees of a completion; None if that is its answer, and the thinking never ends."""
        return completion if self.sees == "whole" else after_thinking(completion, thinking)


def load_rubric(path: str | Path) -> Rubric:
    """The rubric in a .yaml file. Raises RecipeError, one line for each mistake."""
    file = Path(path)
    try:
        rubric = Rubric.model_validate(
            read_mapping(file, MISSING, f"a rubric is a mapping ({', '.join(Rubric.model_fields)})")
        )
    except ValidationError as error:
        raise RecipeError(*(f"{file}: {_line(entry)}" for entry in error.errors())) from None
    rubric._source = file
    if rubric.template is not None:
        rubric._template_text = _read_template(file, rubric.template)
    return rubric


def _read_template(rubric_file: Path, name: str) -> str:
    """The template's text, which compiles and asks for nothing that it does not get."""
    file = rubric_file.parent / name
    try:
        text = file.read_text(encoding="utf-8")
        asked = jinja2.meta.find_undeclared_variables(TEMPLATES.parse(text)) - set(TEMPLATES.globals)
    except FileNotFoundError:
        raise RecipeError(f"{rubric_file}: template: no such file: {file}") from None
    except (OSError, ValueError) as error:
        raise RecipeError(f"{rubric_file}: template: {file} cannot be read ({error})") from None
    except jinja2.TemplateSyntaxError as error:
        raise RecipeError(f"{rubric_file}: template: {file}, line {error.lineno}: {error.message}") from None
    if unknown := sorted(asked - set(TEMPLATE_VARIABLES)):
        known = ", ".join(TEMPLATE_VARIABLES)
        mend = closest(unknown[0], TEMPLATE_VARIABLES)
        raise RecipeError(f"{rubric_file}: template: {file} asks for {unknown[0]!r} (known: {known}){mend}")
    return text


def _line(error: Mapping[str, Any]) -> str:
    """One of pydantic's errors as `key: what is wrong; mend`."""
    *_, last = location = [str(part) for part in error["loc"]]
    key, kind, value = ".".join(location), error["type"], error["input"]
    inside = location[0] == "principles" and len(location) > 1
    if kind == "extra_forbidden":
        section = Principle if inside else Rubric
        mend = closest(last, section.model_fields)
        if value is None and inside:  # what YAML makes of the rest of a text in braces
            mend = "; quote the text before it, which has a comma"
        return f"{key}: unknown key of a {section.__name__.lower()}{mend}"
    if kind == "missing":
        return f"{key}: missing; it has no default"
    if kind == "literal_error":
        return f"{key}: unknown {last} {value!r}; write answer or whole{closest(str(value), ('answer', 'whole'))}"
    if kind == "value_error":
        return f"{key}: {error['ctx']['error']}"
    if key == "principles" and kind == "too_short":
        return f"{key}: there is none; give at least one, with name and text"
    if key == "scale":
        return f"{key}: {value!r} is no scale; write [lowest, highest], e.g. [1, 10]"
    if last == "name" and kind == "string_pattern_mismatch":
        return f"{key}: {value!r} is no name of a principle; write it with a-z, 0-9 and _"
    if isinstance(value, str) and NUMBER.fullmatch(value):
        return f"{key}: {value!r} is text to YAML, not a number; write {number_for_yaml(value)}"
    return f"{key}: {value!r} is wrong: {error['msg'][0].lower()}{error['msg'][1:]}"
