"""Run records -> one self-contained HTML page and a table for the terminal.

    python -m open_r1.report RUN_DIR

Shows what a run left behind (run.json, metrics.jsonl, scores.json, completions/, kept/ and the counts of sampling), for
a single run and for a pipeline with one run directory per stage. What is missing is left out and said so; nothing is
recomputed.

    reading     a run directory -> Run, and a note on each file that is missing or broken
    scores      scores.json -> one block of models per benchmark
    gates       what a pipeline demands of its stages, and whether they have reached it
    graph       records -> what fed what: stages, and the models and data from outside
    layout      the graph and a card for each stage -> boxes and lines with coordinates
    samples     completions/ and kept/ -> a right and a wrong answer of a stage's model, a kept and a dropped one
    feedback    preferences.json, reward_model.json -> what a judge's preferences and a reward model are worth
    truth       metrics.jsonl of RL -> what is rewarded beside what is wanted
    commands    what to type to run a stage again
    comparison  completions/*.parquet -> the same problems before and after
    phases      metrics.jsonl -> where the seconds of the optimizer steps went
    pictures    metrics and scores -> PNG
    table       stages, scores and phases as rows of text, printed
    page        all of it as HTML
"""

from open_r1.report.page import write_report
from open_r1.report.table import print_table

__all__ = ["print_table", "write_report"]
