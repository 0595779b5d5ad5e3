"""A graph of stages -> boxes and lines with coordinates; the template draws them.

Layers go down, so that a long pipeline is a page to scroll and not a picture to shrink. All that feeds a stage with the
same kind of thing (models, or data) comes in on one line; where it comes from further above than the row before, it
runs down a lane on the left, and does not pass through boxes. What comes from outside the pipeline is written into the
box that takes it: a line from it to every stage would be most of the lines.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from open_r1.report.gates import GateState
from open_r1.report.graph import Edge, Graph, Source, What

# Pixels, and letters as wide as those of the widest of the fonts that a page without fonts of its own may get.
NAME_LETTER, LETTER = 9.8, 7.6
NAME_LINE, LINE = 18, 16
PADDING, COLUMN_GAP, LANE, TRACK, CORNER = 10, 12, 10, 8, 5
MIN_BOX_WIDTH, MAX_BOX_WIDTH = 150, 330
ROOM_BELOW_BOX, ROOM_FOR_ARROW = 10, 28
MAX_NAME_LINES, MAX_FACT_LINES, MAX_GATE_LINES, MAX_SOURCES_SHOWN = 3, 2, 5, 4
ENTRY_OF_BOTH = {"model": 0.5, "data": 0.72}  # where a line comes in, as a share of the box's width
ASIDE = {"model": 0.22, "data": 0.72}  # where it does so if another box stands in its way above
EXIT = {"model": 0.5, "data": 0.62}
BOTTOM = 10
GATE_MARKS = {True: ("✓", "passed"), False: ("✗", "missed"), None: ("?", "unknown")}
GATE_ORDER = ("missed", "unknown", "passed")


@dataclass(frozen=True)
class Text:
    """A line of text at its baseline; `kind` is the class that the style sheet knows."""

    text: str
    x: float
    y: float
    kind: str


@dataclass(frozen=True)
class Card:
    """What is written in a stage's box: facts are packed into as few lines as they fit in."""

    facts: Sequence[str]
    gates: Sequence[GateState]
    status: str


@dataclass
class Box:
    """A stage. It is placed bit by bit."""

    stage: str
    sources: tuple[Source, ...]
    kind: str = "stage"
    texts: list[Text] = field(default_factory=list)
    row: int = 0
    column: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    gate_mark: str | None = None
    """How the worst of the stage's gates stands: missed, unknown or passed; None if it has none."""

    @property
    def title(self) -> str:
        """The stage, and whole names of what comes into it from outside."""
        return ", ".join([self.stage, *(f"{source.what} {source.name}" for source in self.sources)])


@dataclass(frozen=True)
class Line:
    """A path from the stage that is fed back to who feeds it: so the dashes of lines that join lie on each other."""

    path: str
    kind: str
    title: str


@dataclass(frozen=True)
class Drawing:
    """All that the template needs, in pixels."""

    width: float
    height: float
    boxes: list[Box]
    lines: list[Line]
    labels: list[Text]


@dataclass
class _Bus:
    """The edges that feed one stage with one kind of thing."""

    target: Box
    what: What
    parents: list[tuple[Box, Edge]]
    lane: int | None = None

    @property
    def far(self) -> list[Box]:
        """Parents that are not in the row right above."""
        return [parent for parent, _ in self.parents if parent.row < self.target.row - 1]

    def rows_with_tracks(self) -> set[int]:
        """Rows below which the line runs across."""
        return {self.target.row - 1, *(parent.row for parent in self.far)}


def draw_graph(graph: Graph, cards: dict[str, Card], width: float, num_columns: int) -> Drawing:
    """The drawing of a graph, `width` pixels wide: `num_columns` boxes side by side, or fewer that are wide enough."""
    boxes_of_layer, edges = _boxes(graph)
    rows = _rows(boxes_of_layer, edges, num_columns)
    boxes = [box for row in rows for box in row]
    num_columns = max((box.column + 1 for box in boxes), default=1)
    buses = _buses(edges)
    num_lanes = _assign_lanes(buses)
    left = num_lanes * LANE + (4 if num_lanes else 0)
    column_width = min(MAX_BOX_WIDTH, (width - left - 2 - COLUMN_GAP * (num_columns - 1)) / num_columns)
    if column_width < MIN_BOX_WIDTH and num_columns > 1:
        return draw_graph(graph, cards, width, num_columns - 1)
    width = left + 2 + num_columns * (column_width + COLUMN_GAP) - COLUMN_GAP
    for box in boxes:
        box.x, box.width = left + box.column * (column_width + COLUMN_GAP) + 1, column_width
        _write(box, cards[box.stage])
    track_of = _assign_tracks(buses)
    y = 1.0
    gaps: dict[int, float] = {}  # row -> where the room below it begins
    for number, row in enumerate(rows):
        for box in row:
            box.y = y
            box.texts = [Text(text.text, box.x + text.x, y + text.y, text.kind) for text in box.texts]
        y += max(box.height for box in row)
        gaps[number] = y + ROOM_BELOW_BOX
        num_tracks = sum(1 for below, _ in track_of if below == number)
        y += ROOM_BELOW_BOX + num_tracks * TRACK + ROOM_FOR_ARROW if number < len(rows) - 1 else BOTTOM
    lines, labels = [], []
    for number, bus in enumerate(buses):
        both = any(other.target is bus.target and other is not bus for other in buses)
        entry = _entry(bus, both, rows)
        labels.append(_label(bus, entry, on_the_left=both and bus.what == "model" and not _is_aside(bus, rows)))
        for parent, edge in bus.parents:
            heights = {row: gaps[row] + track_of[row, number] * TRACK for row in bus.rows_with_tracks()}
            lines.append(_line(bus, parent, edge, entry, heights))
    return Drawing(width, y, boxes, lines, labels)


def _boxes(graph: Graph) -> tuple[dict[int, list[Box]], list[tuple[Box, Box, Edge]]]:
    """Boxes by their layer, and the edges between them as (parent, stage, edge)."""
    box_of = {stage.name: Box(stage.name, graph.sources_of(stage.name)) for stage in graph.stages}
    boxes: dict[int, list[Box]] = {}
    for name, layer in graph.layers().items():
        boxes.setdefault(layer, []).append(box_of[name])
    edges = [(box_of[edge.parent], box_of[edge.stage], edge) for edge in graph.edges if isinstance(edge.parent, str)]
    return boxes, edges


def _rows(boxes: dict[int, list[Box]], edges: list[tuple[Box, Box, Edge]], num_columns: int) -> list[list[Box]]:
    """Boxes by row, each with its row and column set; a stage stands below the first that feeds it, if it can."""
    rows: list[list[Box]] = []
    for _, members in sorted(boxes.items()):
        for start in range(0, len(members), num_columns):
            wished = {
                id(box): next((parent.column for parent, child, _ in edges if child is box), 0)
                for box in members[start : start + num_columns]
            }
            free, taken = list(range(num_columns)), []
            for wish in wished.values():
                taken.append(min(free, key=lambda column: (abs(column - wish), column)))
                free.remove(taken[-1])
            row = sorted(members[start : start + num_columns], key=lambda box: wished[id(box)])
            for box, column in zip(row, sorted(taken), strict=True):
                box.row, box.column = len(rows), column
            rows.append(row)
    return rows


def _buses(edges: Iterable[tuple[Box, Box, Edge]]) -> list[_Bus]:
    buses: dict[tuple[int, str], _Bus] = {}
    for parent, child, edge in edges:
        buses.setdefault((id(child), edge.what), _Bus(child, edge.what, [])).parents.append((parent, edge))
    return sorted(buses.values(), key=lambda bus: (bus.target.row, bus.what == "data"))


def _assign_lanes(buses: list[_Bus]) -> int:
    """The number of lanes; two lines share one if they do not run beside each other."""
    taken: list[list[range]] = []
    for bus in buses:
        if not bus.far:
            continue
        rows = range(min(parent.row for parent in bus.far), bus.target.row)
        for number, others in enumerate(taken):  # noqa: B007
            if all(rows.stop <= other.start or other.stop <= rows.start for other in others):
                break
        else:
            number = len(taken)
            taken.append([])
        taken[number].append(rows)
        bus.lane = number
    return len(taken)


def _assign_tracks(buses: list[_Bus]) -> dict[tuple[int, int], int]:
    """(row, number of a bus) -> which of the tracks below that row is its own."""
    used: dict[int, int] = {}
    track_of = {}
    for number, bus in enumerate(buses):
        for row in sorted(bus.rows_with_tracks()):
            track_of[row, number] = used.get(row, 0)
            used[row] = used.get(row, 0) + 1
    return track_of


def _entry(bus: _Bus, both: bool, rows: list[list[Box]]) -> float:
    """The x at which a bus comes into its stage from above."""
    share = ASIDE[bus.what] if _is_aside(bus, rows) else ENTRY_OF_BOTH[bus.what] if both else 0.5
    return bus.target.x + bus.target.width * share


def _is_aside(bus: _Bus, rows: list[list[Box]]) -> bool:
    """Whether a box stands right above the stage whose own lines this one would run into."""
    above = next((box for box in rows[bus.target.row - 1] if box.column == bus.target.column), None)
    return above is not None and all(parent is not above for parent, _ in bus.parents)


def _label(bus: _Bus, entry: float, on_the_left: bool) -> Text:
    x = entry - 7 if on_the_left else entry + 7
    return Text(bus.what, x, bus.target.y - 8, f"{bus.what} {'end' if on_the_left else 'start'}")


def _line(bus: _Bus, parent: Box, edge: Edge, entry: float, heights: dict[int, float]) -> Line:
    target = bus.target
    exit_x = parent.x + parent.width * EXIT[bus.what]
    rail = heights[target.row - 1]
    points = [(entry, target.y - 3), (entry, rail)]
    if parent.row < target.row - 1:
        lane = 3 + bus.lane * LANE
        points += [(lane, rail), (lane, heights[parent.row]), (exit_x, heights[parent.row])]
    else:
        points += [(exit_x, rail)]
    points += [(exit_x, parent.y + parent.height)]
    title = f"{bus.what} of {parent.stage} → {target.stage}"
    if edge.sha256:
        title += f" (sha256 {edge.sha256[:12]})"
    return Line(_rounded(points), bus.what if edge.recorded else f"{bus.what} planned", title)


def _rounded(points: list[tuple[float, float]]) -> str:
    """An SVG path along points, each turn a quarter of a circle."""
    points = [point for point, before in zip(points, [None, *points], strict=False) if point != before]
    path = f"M{points[0][0]:.1f} {points[0][1]:.1f}"
    for before, here, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(here, before), _towards(here, after)
        path += f"L{start[0]:.1f} {start[1]:.1f}Q{here[0]:.1f} {here[1]:.1f} {end[0]:.1f} {end[1]:.1f}"
    return path + f"L{points[-1][0]:.1f} {points[-1][1]:.1f}"


def _towards(here: tuple[float, float], other: tuple[float, float]) -> tuple[float, float]:
    """The point at most CORNER pixels from `here`, and no further than half the way."""
    length = abs(other[0] - here[0]) + abs(other[1] - here[1])  # all lines are level or upright
    share = min(CORNER, length / 2) / length if length else 0.0
    return here[0] + share * (other[0] - here[0]), here[1] + share * (other[1] - here[1])


def _write(box: Box, card: Card) -> None:
    """Gives a box its lines of text, from its own upper left corner, and its height."""
    letters = int((box.width - 2 * PADDING) / LETTER)
    box.kind = f"stage status-{card.status.replace(' ', '-')}"
    num_name_letters = int((box.width - 2 * PADDING) / NAME_LETTER)
    lines = [(line, "name") for line in wrapped(box.stage, num_name_letters, MAX_NAME_LINES)]
    lines += [(line, "soft") for line in _source_lines(box.sources, letters)]
    lines += [(line, "fact") for line in _packed(card.facts, letters)]
    for gate in card.gates:
        mark, kind = GATE_MARKS[gate.passed]
        text = f"{mark} gate {gate.verdict}: {gate.demand}"
        lines += [(line, f"gate {kind}") for line in wrapped(text, letters, MAX_GATE_LINES)]
    kinds = [GATE_MARKS[gate.passed][1] for gate in card.gates]
    box.gate_mark = min(kinds, key=GATE_ORDER.index, default=None)
    y = PADDING - 4.0
    for text, kind in lines:
        y += NAME_LINE if kind == "name" else LINE
        box.texts.append(Text(text, PADDING, y, kind))
    box.height = y + PADDING - 2


def _packed(facts: Sequence[str], letters: int) -> list[str]:
    """Facts joined by a dot as long as they fit a line; one that is too long for a line has two."""
    lines: list[str] = []
    for fact in facts:
        if lines and len(lines[-1]) + len(fact) + 3 <= letters:
            lines[-1] += f" · {fact}"
        else:
            lines += wrapped(fact, letters, MAX_FACT_LINES)
    return lines


def wrapped(text: str, letters: int, max_lines: int) -> list[str]:
    """`text` in lines of so many letters, broken behind a space, `_` or `/`; what is too long for them ends in …"""
    lines = []
    while text and len(lines) < max_lines:
        if len(text) <= letters:
            return [*lines, text]
        if len(lines) == max_lines - 1:
            break
        breaks = [position + 1 for position, letter in enumerate(text[:letters]) if letter in " _/"]
        cut = breaks[-1] if breaks else letters
        lines.append(text[:cut].rstrip())
        text = text[cut:]
    return [*lines, _cut(text, letters)] if text else lines


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _source_lines(sources: Sequence[Source], letters: int) -> list[str]:
    """Kinds and names of sources, each behind an arrow; a name without its owner, or folder, where there is no room."""
    num_shown = len(sources) if len(sources) <= MAX_SOURCES_SHOWN + 1 else MAX_SOURCES_SHOWN
    shown = []
    for source in sources[:num_shown]:
        whole = f"← {source.what} {source.label}"
        short = f"← {source.what} {source.label.rpartition('/')[2]}"
        shown.append(whole if len(whole) <= letters else _cut(short, letters))
    return _packed([*shown, *([f"and {len(sources) - num_shown} more"] if num_shown < len(sources) else [])], letters)
