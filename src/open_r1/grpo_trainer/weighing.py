"""What the parts of a step log -> one value a name, each part with its weight."""

import contextlib
import math
from collections.abc import Iterator, Mapping


@contextlib.contextmanager
def weighted(metrics: dict[str, list[float]]) -> Iterator:
    """Gives a function to call with a weight after each part; what the parts logged becomes one value a name.

    It also takes the weights of names that have one of their own, such as how many rows their mean is of.
    The highest of what is called max, the lowest of min, else the weighted mean. TRL logs a value for each
    micro-batch and each rollout and takes their plain mean, which counts a short one like a long one.
    """
    before = {name: len(values) for name, values in metrics.items()}
    parts: list[tuple[dict[str, list[float]], float, Mapping[str, float]]] = []

    def weigh(weight: float, own_weights: Mapping[str, float] | None = None) -> None:
        logged = {name: _taken(values, before.get(name, 0)) for name, values in metrics.items() if name != "num_tokens"}
        parts.append((logged, weight, own_weights or {}))

    yield weigh
    for name in dict.fromkeys(name for logged, *_ in parts for name, values in logged.items() if values):
        given = [(value, own.get(name, weight)) for logged, weight, own in parts for value in logged.get(name, [])]
        metrics[name].append(_one_value(name, [(value, weight) for value, weight in given if not math.isnan(value)]))


def _taken(values: list[float], start: int) -> list[float]:
    taken = values[start:]
    del values[start:]
    return taken


def _one_value(name: str, given: list[tuple[float, float]]) -> float:
    if not given:
        return math.nan
    values = [value for value, _ in given]
    kind = name.rpartition("/")[2]
    if kind.startswith("max") or kind.endswith("max"):
        return max(values)
    if kind.startswith("min") or kind.endswith("min"):
        return min(values)
    total = sum(weight for _, weight in given)
    return sum(value * weight for value, weight in given) / total if total else sum(values) / len(values)
