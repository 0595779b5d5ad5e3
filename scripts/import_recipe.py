"""A recipe of open-r1 or TRL (a flat YAML, with its accelerate config) -> one of ours, and what became of every key.

    python scripts/import_recipe.py theirs.yaml --accelerate zero3.yaml --out recipes/x/grpo.yaml
    python scripts/import_recipe.py theirs.yaml                        the recipe to stdout, the report to stderr
    python scripts/import_recipe.py --table tests/flat_recipes         a table of what becomes of a folder's recipes

What was written is loaded and checked as `make check` does; the exit code is 2 if it does not load.
"""

import sys

from open_r1.contributing.importing import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
