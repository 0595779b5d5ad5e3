"""Keys and addresses of sandboxes, from the environment or from `.env`."""

import os
from collections.abc import Iterable


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
