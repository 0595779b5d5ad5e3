"""Puts the model of a finished run into the repository, with its sha256 and the recipe that made it beside it.

python scripts/ship_model.py runs/tiny-r1/base/latest recipes/tiny-r1/models/teacher
python scripts/ship_model.py --compare runs/tiny-r1/base/latest recipes/tiny-r1/models/teacher
"""

import argparse
import shutil
import sys
from pathlib import Path

from open_r1.run_record import read_record, weights_sha256

MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "chat_template.jinja",
)
WEIGHTS = "model.safetensors"


def ship(run_dir: Path, destination: Path) -> None:
    """Copies the model; writes SHA256SUMS (as sha256sum -c reads it) and MADE_BY, the recipe, seed and versions."""
    record = read_record(run_dir)
    destination.mkdir(parents=True, exist_ok=True)
    for name in MODEL_FILES:
        shutil.copyfile(run_dir / "model" / name, destination / name)
    (destination / "SHA256SUMS").write_text(f"{weights_sha256(destination)}  {WEIGHTS}\n", encoding="utf-8")
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    (destination / "MADE_BY").write_text(
        f"recipe: {record['recipe_file']}\nrecipe_sha256: {record['recipe_sha256']}\nseed: {record['seed']}\n"
        f"seconds: {record['seconds']:.0f}\ncpu: {record['hardware']['cpu']}\nversions: {versions}\n",
        encoding="utf-8",
    )


def compare(run_dir: Path, shipped: Path) -> str:
    """One line that tells whether the run gave the shipped weights, bit for bit."""
    made, ours = weights_sha256(run_dir / "model"), weights_sha256(shipped)
    if made == ours:
        return f"{shipped}: the same weights, bit for bit ({made[:16]}…)"
    return (
        f"{shipped}: other weights ({made[:16]}… instead of {ours[:16]}…): another CPU or another build of torch adds "
        f"in another order; to use them, give model.name={run_dir / 'model'}"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("destination", type=Path)
    parser.add_argument("--compare", action="store_true", help="only say whether the weights are the shipped ones")
    arguments = parser.parse_args()
    if arguments.compare:
        print(compare(arguments.run_dir, arguments.destination))
    else:
        ship(arguments.run_dir, arguments.destination)
        print(f"{arguments.destination}: {weights_sha256(arguments.destination)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
