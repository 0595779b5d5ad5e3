"""What sandboxes over a network share: keys and addresses, from the environment or from `.env`, and their patience."""

import os
import random
from collections.abc import Iterable

FIRST_BACKOFF_SECONDS, MAX_BACKOFF_SECONDS = 1.0, 30.0


def read_settings(names: Iterable[str]) -> dict[str, str]:
    """Those of the names that are set and not empty; the environment goes before `.env`.

    `.env` is looked for in the working directory and above it, and only where python-dotenv is installed.
    """
    found: dict[str, str | None] = {}
    try:
        import dotenv
    except ImportError:
        pass
    else:
        found = dotenv.dotenv_values(dotenv.find_dotenv(usecwd=True))
    found = {**found, **os.environ}
    return {name: found[name].strip() for name in names if (found.get(name) or "").strip()}


def backoff_seconds(num_tries: int) -> float:
    """Doubled with each try, and anything between half and all of it: those who failed together come back apart."""
    return min(FIRST_BACKOFF_SECONDS * 2 ** (num_tries - 1), MAX_BACKOFF_SECONDS) * random.uniform(0.5, 1.0)
