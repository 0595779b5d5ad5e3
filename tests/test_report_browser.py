"""The page of a long pipeline in a real browser: that it asks for nothing, and can be read on a phone."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import write_completions, write_metrics, write_record
from test_report_feedback import BY_MODEL, BY_RULE, FALLING, HELD_OUT, PAIRS, RISING, STOPPED, write_rl

from open_r1.report import write_report

SIZES = {"phone": (390, 844), "desktop": (1200, 900)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_TIMEOUT_SECONDS = 120
# stage -> step, and what feeds it: model of, or data of, an earlier stage
LONG_PIPELINE = {
    "cold_start_traces": ("generate", [], []),
    "cold_start": ("sft", [], ["cold_start_traces"]),
    "reasoning_rl": ("grpo", ["cold_start"], []),
    "reasoning_rl_code": ("grpo", ["reasoning_rl"], []),
    "rejection_sampling": ("generate", ["reasoning_rl_code"], []),
    "general_traces": ("generate", [], []),
    "second_sft": ("sft", [], ["rejection_sampling", "general_traces"]),
    "final_rl": ("grpo", ["second_sft"], []),
    "rejection_sampling_2": ("generate", ["final_rl"], []),
    "second_sft_2": ("sft", [], ["rejection_sampling_2", "general_traces"]),
    "final_rl_2": ("grpo", ["second_sft_2"], []),
    "student_traces": ("generate", ["final_rl_2"], []),
    "student_of_one_and_a_half_billion": ("sft", [], ["student_traces"]),
    "student_small": ("sft", [], ["student_traces"]),
    "judged_pairs": ("preferences", ["final_rl"], []),
    "reward_model": ("reward_model", ["second_sft"], ["judged_pairs"]),
    "preference_rl": ("grpo", ["final_rl", "reward_model"], []),
    "direct_preferences": ("dpo", ["final_rl"], ["judged_pairs"]),
    "evaluation": ("evaluate", ["cold_start", "reasoning_rl", "final_rl", "final_rl_2", "student_small"], []),
    "later_rl": ("grpo", ["student_small"], []),
}
NOT_BEGUN = "later_rl"
GATES = {
    "reasoning_rl": [{"metric": "rewards/accuracy_reward/mean", "at_least": 0.5, "last_logs": 10}],
    "rejection_sampling": [{"metric": "kept_share", "at_least": 0.8}],
    "later_rl": [{"metric": "reward", "at_least": 0.5, "at_most": 2.0}],
}
COUNTS = {
    "prompts": 2000,
    "sampled": 8000,
    "kept": 6000,
    "dropped": {"accuracy below 1": 1500, "mixed_languages": 300, "near_duplicate": 200},
    "tokens_per_second": 2345.6,
    "counts": {"retries": 12},
}
LAYOUT_SCRIPT = """<script>
const errors = [];
window.addEventListener("error", event => errors.push(String(event.message || event.target.outerHTML)), true);
window.addEventListener("load", () => {
  const shown = [...document.querySelectorAll("svg.graph")].filter(svg => svg.getBoundingClientRect().width > 0);
  const svg = shown[0];
  const box = element => element.getBoundingClientRect();
  const nodes = [...svg.querySelectorAll("a.node")];
  const rects = [...svg.querySelectorAll("a.node rect")];
  const crossing = (a, b) =>
    a.left < b.right - 1 && b.left < a.right - 1 && a.top < b.bottom - 1 && b.top < a.bottom - 1;
  const labels = [...svg.querySelectorAll("text.edge-label")];
  const through = [];
  for (const path of svg.querySelectorAll("path.edge"))
    for (let at = 6; at < path.getTotalLength() - 3; at += 3) {
      const point = path.getPointAtLength(at).matrixTransform(path.getScreenCTM());
      for (const rect of rects) {
        const r = box(rect);
        if (point.x > r.left + 1 && point.x < r.right - 1 && point.y > r.top + 1 && point.y < r.bottom - 1)
          through.push(path.querySelector("title").textContent);
      }
    }
  const all = [...document.querySelectorAll("main p, main li, main td, main th, main pre, main dd, svg.graph text")];
  const facts = {
    graphs: shown.map(each => each.getAttribute("class")),
    page_width: document.documentElement.scrollWidth,
    window_width: document.documentElement.clientWidth,
    graph_right: box(svg).right,
    errors: errors,
    requests: performance.getEntriesByType("resource").map(entry => entry.name),
    nodes: nodes.map(node => node.getAttribute("href")),
    tops: Object.fromEntries(nodes.map(node => [node.getAttribute("href").replace("#stage-", ""), box(node).top])),
    titles: nodes.map(node => node.querySelector("title").textContent),
    sources: nodes.flatMap(node => [...node.querySelectorAll("text.soft")].map(text => text.textContent)),
    broken_links: nodes.filter(node => !document.querySelector(node.getAttribute("href"))).length,
    edges: [...svg.querySelectorAll("path.edge")].map(edge => edge.querySelector("title").textContent),
    overlapping_boxes: rects.flatMap((a, i) => rects.slice(i + 1).filter(b => crossing(box(a), box(b)))).length,
    edges_through_boxes: [...new Set(through)],
    labels_in_the_way: labels.filter((label, i) =>
      box(label).left < box(svg).left || box(label).right > box(svg).right ||
      rects.some(rect => crossing(box(rect), box(label))) ||
      labels.slice(i + 1).some(other => crossing(box(label), box(other)))).map(label => label.textContent),
    texts_outside_boxes: [...svg.querySelectorAll("a.node")].flatMap(node => {
      const r = box(node.querySelector("rect"));
      return [...node.querySelectorAll("text")].filter(text =>
        box(text).left < r.left || box(text).right > r.right || box(text).top < r.top || box(text).bottom > r.bottom
      ).map(text => text.textContent);
    }),
    narrowest_box: Math.min(...rects.map(rect => box(rect).width)),
    smallest_font: Math.min(...all.filter(e => box(e).width > 0).map(e => {
      const scale = e.ownerSVGElement ? e.getScreenCTM().a : 1;
      return scale * parseFloat(getComputedStyle(e).fontSize);
    })),
    body_font: parseFloat(getComputedStyle(document.body).fontSize),
    too_wide_outside_scrollers: [...document.querySelectorAll("main *")].filter(e =>
      box(e).right > document.documentElement.clientWidth + 1 && !e.closest(".scroll") && box(e).width > 0
    ).map(e => e.tagName + "." + e.className),
  };
  const out = document.createElement("pre");
  out.id = "layout-facts";
  out.textContent = JSON.stringify(facts);
  parent.document.body.append(out);
});
</script>"""


def browser() -> str:
    """The headless browser's program; the test is skipped without one, or fails where one has to be."""
    named = os.environ.get("CHROMIUM")
    found = next((path for name in ([named] if named else BROWSERS) if (path := shutil.which(name))), None)
    if found is None:
        reason = f"no browser: none of {', '.join(BROWSERS)} on PATH, and CHROMIUM names none"
        if os.environ.get("CI_NEEDS_CHROMIUM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


def browse(page: Path, *flags: str) -> str:
    """What the browser prints of a page. It has a profile of its own, and no name leads anywhere."""
    command = [
        *(browser(), "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--host-resolver-rules=MAP * ~NOTFOUND"),
        f"--user-data-dir={page.parent / 'profile'}",
        *flags,
        page.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=BROWSER_TIMEOUT_SECONDS, check=True)
    return done.stdout


def write_long_pipeline(root: Path) -> Path:
    """A run with two rounds of a loop, data beside models, gates passed, missed and open, and a stage to come."""
    run = root / "r1"
    stages = [
        {"name": name, "recipe": f"{name}.yaml", "set": {}, "gate": GATES.get(name, [])} for name in LONG_PIPELINE
    ]
    stages[-1]["set"] = {"model": {"name": "stage:student_small"}}
    recipe = {"step": "pipeline", "description": "R1, all of it", "stages": stages}
    command = ["/x/src/open_r1/launch.py", "pipeline", "recipes/r1/pipeline.yaml", "seed=1"]
    write_record(run, "pipeline", status="running", recipe=recipe, command=command, seconds=90_000.0)
    scored = LONG_PIPELINE["evaluation"][1]
    for name, (step, models, data) in LONG_PIPELINE.items():
        if name == NOT_BEGUN:
            continue
        parents = [{"name": each, "run": str(run / each), "weights_sha256": "a" * 64} for each in models]
        parents += [{"name": each, "run": str(run / each), "data_sha256": "d" * 64} for each in data]
        paths = [{"path": str(run / each / "kept")} for each in data]
        made = {"step": step, "model": {"name": str(run / models[0] / "model") if models else "Qwen/Qwen2.5-7B"}}
        made["data"] = [*paths, {"name": "open-r1/OpenR1-Math-220k"}] if step == "sft" else paths
        if step == "grpo":
            made["data"] = [{"name": "agentica-org/DeepScaleR-Preview-Dataset"}, {"procedural": {"family": "sums"}}]
        if step == "evaluate":
            made["evaluate"] = {"models": {each: str(run / each / "model") for each in models}}
        write_record(run / name, step, recipe=made, parents=parents, seconds=9_000.0, cost_usd=41.5)
        if step == "generate":
            (run / name / "generate.json").write_text(json.dumps(COUNTS))
        elif step == "preferences":
            (run / name / "preferences.json").write_text(json.dumps(PAIRS))
        elif step == "reward_model":
            (run / name / "reward_model.json").write_text(json.dumps(HELD_OUT))
        elif name == "preference_rl":
            write_rl(run / name, [BY_MODEL, BY_RULE], {"reward_model": RISING, "explained": FALLING}, parents)
            (run / name / "warnings.jsonl").write_text(json.dumps({**STOPPED, "reason": "fell " * 50}) + "\n")
        elif name in ("cold_start", "reasoning_rl"):  # drawing is most of a report's time
            write_metrics(run / name, step, num_steps=20)
    entry = {"pass@1": 0.881, "pass@1_interval": [0.86, 0.9], "num_problems": 500, "samples": 4}
    refused = {"pass@1": None, "refused": "62 % of the completions were cut off at 80 tokens"}
    scores = {
        label: {"parameters": 7_600_000_000, "benchmarks": {"math_500": entry, "aime24": refused}} for label in scored
    }
    (run / "evaluation" / "scores.json").write_text(json.dumps(scores))
    long = "<think>" + "7+5=12\n" * 2000 + "</think>"
    for label in scored:
        answers = [("x" * 3000, 0.0), (long, 1.0)]
        write_completions(run / "evaluation" / "completions" / f"{label}-math_500.parquet", answers)
        write_completions(run / "evaluation" / "completions" / f"{label}-aime24.parquet", answers)
    return run


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    browser()
    return write_report(write_long_pipeline(tmp_path_factory.mktemp("runs")))


def framed(page: Path, width: int, height: int) -> Path:
    """A page with the report in a frame of this size: a headless window is never narrower than 500 pixels."""
    report = page.read_text(encoding="utf-8").replace("<head>", f"<head>{LAYOUT_SCRIPT}")
    file = page.with_name(f"frame-{width}.html")
    frame = f'<iframe width="{width}" height="{height}" style="border: 0" srcdoc="{html.escape(report)}"></iframe>'
    file.write_text(f'<!doctype html><meta charset="utf-8"><body style="margin: 0">{frame}', encoding="utf-8")
    return file


@pytest.fixture(scope="module", params=SIZES)
def layout(request, page) -> dict:
    """Facts of the layout, as a script inside a copy of the page found them."""
    dom = browse(framed(page, *SIZES[request.param]), "--dump-dom")
    found = re.search(r'<pre id="layout-facts">(.*?)</pre>', dom, re.DOTALL)
    return json.loads(html.unescape(found.group(1))) | {"window": request.param}


def test_nothing_is_asked_for_from_anywhere(layout):
    assert layout["requests"] == []


def test_one_graph_is_shown_and_it_is_the_one_for_the_window(layout):
    assert layout["graphs"] == [f"graph {layout['window']}"]


def test_the_graph_has_every_stage_once_and_each_leads_to_its_section(layout):
    assert sorted(layout["nodes"]) == sorted(f"#stage-{name}" for name in LONG_PIPELINE)
    assert layout["broken_links"] == 0


def test_every_edge_says_whether_it_carries_a_model_or_data(layout):
    recorded = {
        f"{what} of {parent} → {name} (sha256 {12 * letter})"
        for name, (_, models, data) in LONG_PIPELINE.items()
        if name != NOT_BEGUN
        for what, letter, parents in (("model", "a", models), ("data", "d", data))
        for parent in parents
    }
    assert {edge for edge in layout["edges"] if "sha256" in edge} == recorded
    assert "model of student_small → later_rl" in layout["edges"]


def test_what_comes_from_outside_stands_in_the_box_that_takes_it(layout):
    taken = "reasoning_rl, data agentica-org/DeepScaleR-Preview-Dataset, data sums"
    assert taken in layout["titles"]
    assert sum("← data sums" in text for text in layout["sources"]) == sum(
        "data sums" in title for title in layout["titles"]
    )


@pytest.mark.parametrize(
    "faults", ["overlapping_boxes", "edges_through_boxes", "texts_outside_boxes", "labels_in_the_way"]
)
def test_the_graph_is_free_of(layout, faults):
    assert not layout[faults]


def test_boxes_are_wide_enough_for_their_words(layout):
    assert layout["narrowest_box"] >= 150


def test_stages_stand_below_what_feeds_them(layout):
    top = layout["tops"]
    fed = [(parent, name) for name, (_, models, data) in LONG_PIPELINE.items() for parent in (*models, *data)]
    assert [(parent, name) for parent, name in fed if top[parent] >= top[name]] == []


def test_the_page_does_not_scroll_sideways(layout):
    assert layout["page_width"] == layout["window_width"] == SIZES[layout["window"]][0]
    assert layout["too_wide_outside_scrollers"] == []
    assert layout["graph_right"] <= layout["window_width"]


def test_letters_are_large_enough_to_read(layout):
    assert layout["smallest_font"] >= 12 and layout["body_font"] >= 16


def test_the_browser_has_no_complaint(layout):
    assert layout["errors"] == []
