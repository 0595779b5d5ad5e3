"""What is sampled, watched: a bar with the time left and tokens a second."""

import time
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from open_r1.generation.sampling import Completion, Row


class Watch:
    """A bar on the terminal over the completions of a run, and how fast they came."""

    def __init__(self, total: int, description: str, done: int = 0, shown: bool = True):
        self.num_tokens = 0
        self.started = time.monotonic()
        self.bar = tqdm(
            total=total, initial=done, desc=description, unit="answer", mininterval=1.0, disable=not shown or total == 0
        )

    def watched(self, rows: Iterable[tuple[Row, Completion]]) -> Iterator[tuple[Row, Completion]]:
        """Yields the same rows, each counted."""
        for row, completion in rows:
            self.num_tokens += completion.num_tokens
            self.bar.set_postfix_str(f"{self.tokens_per_second:,.0f} tokens/s", refresh=False)
            self.bar.update()
            yield row, completion

    @property
    def tokens_per_second(self) -> float:
        """Completion tokens a second since the watch was begun."""
        return self.num_tokens / max(1e-9, time.monotonic() - self.started)

    def close(self) -> None:
        self.bar.close()
