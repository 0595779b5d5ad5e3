"""open-r1/ioi with the tests of each subtask beside it, as a file that a recipe can name: `path: ioi.parquet`.

    python scripts/ioi_with_tests.py --years 2020 2021 --output ioi.parquet

The problems and their tests are two data sets on the Hub. `ioi_code` needs the column `test_cases`, which this joins;
the rows that it cannot judge are told by `make check-data`. A test stands in every subtask that uses it: all years
together are several gigabytes.
"""

import argparse

from datasets import concatenate_datasets, load_dataset

from open_r1.judging.programs.contests import with_test_cases


def main() -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--years", nargs="+", required=True, help="of the contest; each is a config of the tests")
    parser.add_argument("--output", required=True, help="a .parquet file")
    parser.add_argument("--revision", help="commit of open-r1/ioi, to have the same again")
    parser.add_argument("--tests-revision", help="commit of open-r1/ioi-test-cases")
    arguments = parser.parse_args()
    problems = load_dataset("open-r1/ioi", split="train", revision=arguments.revision)
    years = []
    for year in arguments.years:
        tests = load_dataset("open-r1/ioi-test-cases", year, split="train", revision=arguments.tests_revision)
        years.append(with_test_cases(problems.filter(lambda row, year=year: str(row["year"]) == year), tests))
    joined = concatenate_datasets(years)
    joined.to_parquet(arguments.output)
    print(f"{arguments.output}: {len(joined)} subtasks of {len(set(joined['id']))} problems")


if __name__ == "__main__":
    main()
