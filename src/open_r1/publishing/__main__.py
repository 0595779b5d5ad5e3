"""The command line of publishing; `make push` calls it."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from open_r1.publishing import Publication, publication_of, send
from open_r1.recipe import RecipeError

UNITS = ("B", "kB", "MB", "GB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code 0, or 2 with one line; then nothing was published."""
    parser = argparse.ArgumentParser(prog="open_r1.publishing", description="Publish what a run made, on the Hub.")
    parser.add_argument("run_and_name", nargs="*", metavar="RUN_DIR USER/NAME")
    parser.add_argument("--private", action="store_true", help="only you, or your organization, can see it")
    parser.add_argument("--license", metavar="ID", help="e.g. apache-2.0; without it the card names no license")
    parser.add_argument("--dry-run", action="store_true", help="show the card and the files, and send nothing")
    options = parser.parse_args(arguments)
    if len(options.run_and_name) != 2:
        print("make push needs a run and a name: make push RUN=runs/… TO=user/name", file=sys.stderr)
        return 2
    run_dir, repo_id = options.run_and_name
    try:
        publication = publication_of(Path(run_dir), repo_id, options.private, options.license)
        if options.dry_run:
            _show(publication)
        else:
            print(send(publication))
    except RecipeError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _show(publication: Publication) -> None:
    print(publication.card)
    num_bytes = {name: publication.num_bytes(name) for name in publication.files}
    for name, size in num_bytes.items():
        print(f"{_size_text(size):>10}  {name}")
    total = f"{len(num_bytes)} files, {_size_text(sum(num_bytes.values()))}"
    print(f"dry run: {total} for {publication.repo_id}; nothing was sent")


def _size_text(num_bytes: float) -> str:
    for unit in UNITS[:-1]:
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == UNITS[0] else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} {UNITS[-1]}"


if __name__ == "__main__":
    sys.exit(main())
