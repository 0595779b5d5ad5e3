import sys
from pathlib import Path

from open_r1.report import print_table, write_report


def main(arguments: list[str]) -> int:
    """0, or 2 if there is no such run directory."""
    if len(arguments) != 1 or not Path(arguments[0]).is_dir():
        print("usage: python -m open_r1.report RUN_DIR   (a directory under runs/)", file=sys.stderr)
        return 2
    print_table(arguments[0])
    print(write_report(arguments[0]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
