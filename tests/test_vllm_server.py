"""The server beside a run that trains: what it is told, when it counts as there, what becomes of the run without it.

No vLLM: something that answers /health stands in its place.
"""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import yaml
from conftest import sums

from open_r1 import running, signals, vllm_server
from open_r1.generation.backends import endpoint_of
from open_r1.incompatible import incompatible_settings
from open_r1.nodes import Nodes
from open_r1.recipe import RecipeError, load_recipe
from open_r1.run_record import read_record

SERVES = """
    import http.server, sys
    class Health(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/die":
                sys.stderr.write("out of memory\\n")
                sys.stderr.flush()
                os._exit(17)
            self.send_response(200 if self.path == "/health" else 404)
            self.end_headers()
    import os
    port = int(sys.argv[sys.argv.index("--port") + 1])
    http.server.HTTPServer(("127.0.0.1", port), Health).serve_forever()
"""
ONLY_SERVES = textwrap.dedent(SERVES)
ANSWERS = f"""
    import sys, threading
    sys.path.insert(0, {str(Path(__file__).parent)!r})
    from openai_server import OpenAIServer, say_what_was_asked
    answer = say_what_was_asked
    if sys.argv[1].endswith("judge"):
        from stand_in_judges import likes_length, verdict_by
        answer = verdict_by(likes_length)
    with OpenAIServer(answer, model=sys.argv[1], port=int(sys.argv[sys.argv.index("--port") + 1])):
        threading.Event().wait()
"""
DIES = "import sys; print('no such model'); sys.exit(1)"
SILENT = "import threading; print('loading', flush=True); threading.Event().wait()"
OF_SEVERAL = ("--host", "--data-parallel-size-local", "--data-parallel-address", "--data-parallel-rpc-port")
RUBRIC = "{description: Order., principles: [{name: order, text: It is in order.}]}"
HARDWARE = {"gpus_per_node": 2, "accelerate": "ddp", "vllm": {"data_parallel_size": 2, "start_timeout_seconds": 60.0}}


@pytest.fixture
def served_recipe(write_recipe, tmp_path):
    """A GRPO recipe with a server; sections and hardware.vllm's keys go over it."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    def load(*overrides: str, **sections):
        trainer = {"use_vllm": True, "vllm_mode": "server", "num_generations": 4, "max_completion_length": 8}
        values = {
            "step": "grpo",
            "model": {"name": "./model"},
            "data": [sums(8)],
            "rewards": ["format"],
            "trainer": trainer,
            "hardware": HARDWARE,
            **sections,
        }
        return load_recipe(write_recipe(**values), list(overrides))

    return load


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Lets a Python program be the server, with this Python in no container, and a free port the first of the job's."""

    def use(program: str = SERVES, command: tuple[str, ...] = ()) -> None:
        file = tmp_path / "server.py"
        file.write_text(textwrap.dedent(program))
        (tmp_path / "site.yaml").write_text(yaml.safe_dump({"vllm": list(command) or [sys.executable, str(file)]}))
        monkeypatch.setenv("OPEN_R1_SITE", str(tmp_path / "site.yaml"))
        monkeypatch.delenv("SLURM_JOB_ID", raising=False)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        monkeypatch.setattr(signals, "_received", [])

    return use


@pytest.fixture
def trainer_of(monkeypatch):
    """Lets a Python program be what trains."""

    def be(program: str) -> None:
        argv = [sys.executable, "-c", textwrap.dedent(program)]
        monkeypatch.setattr(running, "command", lambda recipe, run_dir, nodes: [*argv, str(run_dir)])

    return be


def words_after(argv: list[str], *flags: str) -> list[str]:
    return [argv[argv.index(flag) + 1] for flag in flags]


def test_server_is_told_what_the_recipe_says_and_what_trl_needs(served_recipe, site, tmp_path):
    site(command=("/envs/vllm/bin/vllm", "serve"))
    recipe = served_recipe("hardware.vllm.max_model_length=17408", "model.revision=abc", "seed=3")
    argv = vllm_server.server_command(recipe, Nodes(first_port=12_340))
    assert argv[:3] == ["/envs/vllm/bin/vllm", "serve", str(tmp_path / "model")]
    assert words_after(argv, "--host", "--port", "--seed") == ["127.0.0.1", "12341", "3"]
    assert words_after(argv, "--tensor-parallel-size", "--data-parallel-size") == ["1", "2"]
    assert words_after(argv, "--max-model-len", "--revision") == ["17408", "abc"]
    assert json.loads(*words_after(argv, "--weight-transfer-config")) == {"backend": "nccl"}
    assert words_after(argv, "--logprobs-mode", "--max-logprobs") == ["processed_logprobs", "-1"]
    assert "--headless" not in argv


def test_copies_on_several_nodes_are_behind_the_first_ones_address(served_recipe, site):
    site()
    recipe = served_recipe("hardware.vllm.nodes=2", "hardware.vllm.data_parallel_size=8")
    nodes = Nodes(("t",), ("s1", "s2"), "srun", first_port=12_340)
    first, second = (vllm_server.server_command(recipe, nodes, number=number) for number in range(2))
    assert words_after(first, *OF_SEVERAL) == words_after(second, *OF_SEVERAL) == ["0.0.0.0", "4", "s1", "12343"]
    assert "--headless" not in first
    assert words_after(second, "--data-parallel-start-rank") == ["4"]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.use_vllm=false", "hardware.vllm: nothing asks the server; set trainer.use_vllm: true and"),
        ("trainer.vllm_mode=colocate", "hardware.vllm: nothing asks the server; set trainer.use_vllm: true and"),
        (
            "trainer.vllm_server_port=1",
            "trainer.vllm_server_port: hardware.vllm starts a server of its own; remove",
        ),
        ("hardware.nodes=2", "hardware.vllm.nodes: beside several nodes that train the server needs its own; write"),
        (
            "hardware.vllm={nodes: 2, data_parallel_size: 3}",
            "hardware.vllm.data_parallel_size: 3 copies cannot be",
        ),
    ],
)
def test_server_that_cannot_be_had_is_refused(override, line, served_recipe):
    assert any(problem.startswith(line) for problem in incompatible_settings(served_recipe(override), {}))


SERVERS = {
    "vllm": {"vllm": {"data_parallel_size": 2}},
    "judge": {"judge": {"tensor_parallel_size": 2}},
    "both": {"vllm": {"data_parallel_size": 2}, "judge": {}},
    "vllm elsewhere": {"vllm": {"nodes": 1}, "judge": {}},
    "both elsewhere": {"vllm": {"nodes": 1}, "judge": {"nodes": 1}},
}


@pytest.mark.parametrize(
    ("servers", "visible", "expected"),
    [
        ("vllm", None, {"trainer": "0,1", "vllm": "2,3"}),
        ("vllm", "4,5,6,7", {"trainer": "4,5", "vllm": "6,7"}),
        ("vllm", "0,1,2,3,4", {"trainer": "0,1", "vllm": "2,3"}),
        ("judge", None, {"trainer": "0,1", "judge": "2,3"}),
        ("both", "5,6,7,8,9", {"trainer": "5,6", "vllm": "7,8", "judge": "9"}),
        ("vllm elsewhere", None, {"trainer": "0,1", "judge": "2"}),
        ("both elsewhere", "0,1", {}),
    ],
)
def test_gpus_of_a_node_are_split_between_trainer_and_servers(
    servers, visible, expected, served_recipe, site, monkeypatch
):
    site()
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    recipe = served_recipe(hardware={"gpus_per_node": 2, "accelerate": "ddp", **SERVERS[servers]})
    assert vllm_server.split_gpus(recipe) == expected


@pytest.mark.parametrize(
    ("servers", "line"),
    [
        (
            "vllm",
            "hardware.vllm: 2 GPUs to train and 2 to serve (vllm) are asked for, but CUDA_VISIBLE_DEVICES is 0,1,2",
        ),
        ("judge", "hardware.judge: 2 GPUs to train and 2 to serve (judge) are asked for"),
        ("both", "hardware.vllm: 2 GPUs to train and 2 to serve (vllm) and 1 to serve (judge) are asked for"),
    ],
)
def test_fewer_gpus_than_all_need_are_refused(servers, line, served_recipe, site, monkeypatch):
    site()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2")
    with pytest.raises(RecipeError, match=re.escape(line)):
        vllm_server.split_gpus(served_recipe(hardware={"gpus_per_node": 2, "accelerate": "ddp", **SERVERS[servers]}))


def test_trainer_is_started_when_the_server_answers_and_knows_its_address(served_recipe, site, trainer_of, tmp_path):
    site()
    trainer_of("""
        import os, sys, urllib.request
        from open_r1.vllm_server import trainer_keys
        keys = trainer_keys()
        assert urllib.request.urlopen(keys["vllm_server_base_url"] + "/health").status == 200
        assert keys["vllm_group_port"] == int(keys["vllm_server_base_url"].rpartition(":")[2]) + 1
        sys.exit(os.environ["CUDA_VISIBLE_DEVICES"] != "0,1")
    """)
    assert running.launch(served_recipe(), tmp_path / "run") == 0
    assert read_record(tmp_path / "run")["status"] == "done"


def test_without_a_server_the_trainer_is_told_nothing(monkeypatch):
    monkeypatch.delenv(vllm_server.URL, raising=False)
    assert vllm_server.trainer_keys() == {}


@pytest.mark.parametrize(
    ("program", "start_timeout", "reason", "last_line"),
    [
        (DIES, 60.0, "stopped: the vLLM server ended by itself (exit code 1); ", "    no such model"),
        (SILENT, 1.0, "within 1 seconds (hardware.vllm.start_timeout_seconds); ", "    loading"),
    ],
)
def test_run_whose_server_does_not_come_up_ends_with_its_last_words(
    program, start_timeout, reason, last_line, served_recipe, site, trainer_of, tmp_path, capsys
):
    site(program)
    trainer_of("raise SystemExit(0)")
    recipe = served_recipe(f"hardware.vllm.start_timeout_seconds={start_timeout}")
    assert running.launch(recipe, tmp_path / "run") == 3
    error = read_record(tmp_path / "run")["error"]
    assert reason in error
    assert last_line in error.splitlines()
    assert error.strip() in capsys.readouterr().err


@pytest.mark.parametrize("trainer_notices", [True, False])
def test_server_that_dies_ends_the_run_whatever_the_trainer_does(
    trainer_notices, served_recipe, site, trainer_of, tmp_path
):
    site()
    trainer_of(f"""
        import contextlib, os, threading, urllib.request
        with contextlib.suppress(Exception):
            urllib.request.urlopen(os.environ["OPEN_R1_VLLM_URL"] + "/die")
        if {trainer_notices}:
            raise SystemExit(1)
        threading.Event().wait()
    """)
    assert running.launch(served_recipe(), tmp_path / "run") == 3
    record = read_record(tmp_path / "run")
    assert record["status"] == "failed"
    assert record["error"].startswith("stopped: the vLLM server ended by itself (exit code 17); ")
    assert record["error"].strip().splitlines()[-1] == "    out of memory"


def test_trainer_that_fails_beside_a_server_that_lives_keeps_its_own_code(served_recipe, site, trainer_of, tmp_path):
    site()
    trainer_of("raise SystemExit(2)")
    assert running.launch(served_recipe(), tmp_path / "run") == 2


def test_signal_while_the_server_starts_interrupts_the_run(served_recipe, site, trainer_of, tmp_path):
    site("import os, signal, threading; os.kill(os.getppid(), signal.SIGUSR1); threading.Event().wait()")
    trainer_of("raise SystemExit(0)")
    assert running.launch(served_recipe(), tmp_path / "run") == signals.EXIT_INTERRUPTED
    assert read_record(tmp_path / "run")["status"] == "interrupted"


def test_server_is_gone_when_the_run_has_ended(served_recipe, site, trainer_of, tmp_path):
    site(f"open({str(tmp_path / 'pid')!r}, 'w').write(str(__import__('os').getpid()))\n" + textwrap.dedent(SERVES))
    trainer_of("raise SystemExit(0)")
    assert running.launch(served_recipe(), tmp_path / "run") == 0
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_server_dies_with_a_launcher_that_is_killed(served_recipe, site, tmp_path):
    os.mkfifo(tmp_path / "alive")
    site(f"import threading\nalive = open({str(tmp_path / 'alive')!r}, 'w')\nthreading.Event().wait()")
    recipe = served_recipe()
    program = f"""
        from pathlib import Path
        from open_r1 import running
        from open_r1.recipe import load_recipe
        running.launch(load_recipe(Path({str(recipe.source)!r})), Path({str(tmp_path / "run")!r}))
    """
    launcher = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)])
    with (tmp_path / "alive").open() as alive:  # returns when the server has opened its end
        launcher.kill()
        launcher.wait()
        assert alive.read() == ""  # returns when that is closed


# --- the judge's server


@pytest.fixture
def judged_recipe(served_recipe, tmp_path):
    """A GRPO recipe whose judge is served, beside the policy's server or alone."""
    (tmp_path / "judge").mkdir()
    (tmp_path / "judge" / "config.json").write_text("{}")
    (tmp_path / "rubric.yaml").write_text(RUBRIC)

    def load(*overrides: str, servers: tuple[str, ...] = ("judge",), **sections):
        own = {
            "rewards": [{"name": "judge", "rubric": "rubric.yaml"}],
            "judge": {"name": "./judge"},
            "hardware": {
                "gpus_per_node": 2,
                "accelerate": "ddp",
                **{key: {"start_timeout_seconds": 60.0} for key in servers},
            },
        }
        if "vllm" not in servers:
            own["trainer"] = {"num_generations": 4, "max_completion_length": 8}
        return served_recipe(*overrides, **own | sections)

    return load


def test_judges_server_is_told_what_the_section_says_and_nothing_of_weights_or_the_policy(
    judged_recipe, site, tmp_path
):
    site(command=("vllm", "serve"))
    (tmp_path / "chat.jinja").write_text("")
    recipe = judged_recipe(
        "judge.revision=abc",
        "model.revision=def",
        "model.chat_template=chat.jinja",
        "hardware.judge.max_model_length=4096",
        "hardware.judge.tensor_parallel_size=2",
        servers=("vllm", "judge"),
    )
    argv = vllm_server.server_command(recipe, Nodes(first_port=12_340), "judge")
    assert argv[:3] == ["vllm", "serve", str(tmp_path / "judge")]
    assert words_after(argv, "--host", "--port", "--tensor-parallel-size") == ["127.0.0.1", "12344", "2"]
    assert words_after(argv, "--generation-config", "--revision", "--max-model-len") == ["vllm", "abc", "4096"]
    assert not {"--weight-transfer-config", "--logprobs-mode", "--chat-template"} & set(argv)


def test_judges_nodes_come_after_those_of_the_policys_server(judged_recipe, site):
    site(command=("vllm", "serve"))
    recipe = judged_recipe(
        "hardware.vllm.nodes=1",
        "hardware.judge.nodes=2",
        "hardware.judge.data_parallel_size=4",
        servers=("vllm", "judge"),
    )
    nodes = Nodes(("t",), ("v", "j1", "j2"), "srun", first_port=12_340)
    commands = vllm_server.server_commands(recipe, nodes)
    assert [(key, hosts) for key, hosts, _ in commands] == [("vllm", ("v",)), ("judge", ("j1",)), ("judge", ("j2",))]
    assert words_after(commands[2][2], *OF_SEVERAL) == ["0.0.0.0", "2", "j1", "12345"]
    assert "--headless" not in commands[1][2] and "--headless" in commands[2][2]


@pytest.mark.parametrize("servers", [("judge",), ("vllm", "judge")], ids=" and ".join)
def test_trainer_knows_the_addresses_of_all_servers(servers, judged_recipe, site, trainer_of, tmp_path):
    site()
    trainer_of(f"""
        import os, urllib.request
        urls = [url for name in ("OPEN_R1_VLLM_URL", "OPEN_R1_JUDGE_URL") if (url := os.environ.get(name))]
        assert len(set(urls)) == {len(servers)}
        assert all(urllib.request.urlopen(url + "/health").status == 200 for url in urls)
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1"
    """)
    assert running.launch(judged_recipe(servers=servers), tmp_path / "run") == 0
    assert [(tmp_path / "run" / f"{key}_server-0.log").exists() for key in servers] == [True] * len(servers)


def test_only_the_server_that_takes_weights_is_open_to_whoever_sends_some(judged_recipe, site, trainer_of, tmp_path):
    told = f"open({str(tmp_path)!r} + '/mode-' + os.path.basename(sys.argv[1]), 'w').write(os.environ.get(NAME, ''))"
    site(f"import os, sys\nNAME = 'VLLM_SERVER_DEV_MODE'\n{told}\n" + ONLY_SERVES)
    trainer_of("raise SystemExit(0)")
    assert running.launch(judged_recipe(servers=("vllm", "judge")), tmp_path / "run") == 0
    assert {file.name: file.read_text() for file in tmp_path.glob("mode-*")} == {"mode-model": "1", "mode-judge": ""}


@pytest.mark.parametrize("url", ["OPEN_R1_VLLM_URL", "OPEN_R1_JUDGE_URL"])
def test_either_server_that_dies_ends_the_run_and_is_named(url, judged_recipe, site, trainer_of, tmp_path):
    site()
    trainer_of(f"""
        import contextlib, os, threading, urllib.request
        with contextlib.suppress(Exception):
            urllib.request.urlopen(os.environ["{url}"] + "/die")
        threading.Event().wait()
    """)
    assert running.launch(judged_recipe(servers=("vllm", "judge")), tmp_path / "run") == 3
    name = "vLLM server" if url == vllm_server.URL else "judge's server"
    error = read_record(tmp_path / "run")["error"]
    assert error.startswith(f"stopped: the {name} ended by itself (exit code 17); ")
    assert error.strip().splitlines()[-1] == "    out of memory"


def test_judges_server_that_does_not_come_up_ends_the_run_at_its_own_deadline(
    judged_recipe, site, trainer_of, tmp_path
):
    site('import sys\nif sys.argv[1].endswith("judge"): import threading; threading.Event().wait()\n' + ONLY_SERVES)
    trainer_of("raise SystemExit(0)")
    recipe = judged_recipe("hardware.judge.start_timeout_seconds=1.0", servers=("vllm", "judge"))
    assert running.launch(recipe, tmp_path / "run") == 3
    assert "the judge's server has not answered http://" in (error := read_record(tmp_path / "run")["error"])
    assert "within 1 seconds (hardware.judge.start_timeout_seconds); " in error


def test_logs_of_an_earlier_attempt_are_kept_apart(judged_recipe, site, trainer_of, tmp_path):
    site()
    trainer_of("raise SystemExit(1)")
    for _ in range(2):
        running.launch(judged_recipe(), tmp_path / "run")
    logs = {file.name for file in (tmp_path / "run").glob("*.log")}
    assert logs == {"judge_server-0.log", "earlier_judge_server-0.log"}


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["hardware.nodes=2"], "hardware.judge.nodes: beside several nodes that train the server needs its own; write"),
        (
            ["hardware.judge.nodes=2", "hardware.judge.data_parallel_size=3"],
            "hardware.judge.data_parallel_size: 3 copies cannot be dealt out over 2 nodes; give a multiple",
        ),
        (
            ["hardware.gpus_per_node=0"],
            "hardware.gpus_per_node: 0 leaves the GPUs to hardware.judge, and all else of step grpo to CPUs; write",
        ),
    ],
)
def test_judges_server_that_cannot_be_had_is_refused(overrides, line, judged_recipe):
    problems = list(incompatible_settings(judged_recipe(*overrides), {}))
    assert any(problem.startswith(line) for problem in problems), problems


def test_judges_server_alone_is_no_mistake(judged_recipe):
    assert list(incompatible_settings(judged_recipe(), {})) == []


def test_verdicts_are_given_by_the_server_that_the_launcher_starts(served_recipe, site, smallest_model, tmp_path):
    """Both servers at once, each under its model's name."""
    site(ANSWERS.replace("answer = say_what_was_asked", "answer = lambda body: 'long ' * (1 + body['seed'] % 8)"))
    (tmp_path / "rubric.yaml").write_text(RUBRIC)
    (tmp_path / "judge").mkdir()
    sections = asking(tmp_path) | {"step": "preferences", "model": {"name": str(smallest_model)}}
    preferences = {**sections.pop("generate"), "samples": 4, "rubric": "rubric.yaml", "balance_lengths": False}
    sections |= {"preferences": preferences, "judge": {"name": "./judge", "judgements": 2}}
    sections["hardware"]["judge"] = {"start_timeout_seconds": 60.0}
    assert running.launch(served_recipe(**sections), tmp_path / "run") == 0
    counts = json.loads((tmp_path / "run" / "preferences.json").read_text())
    assert counts["judge"]["verdicts"] > counts["judge"]["unreadable"] == 0
    record = read_record(tmp_path / "run")
    assert record["judging"]["requests"] == counts["judge"]["verdicts"] and record["judging"]["usd"] is None


# --- a server that only answers


def test_server_of_a_step_that_only_asks_is_told_the_template_and_nothing_of_weights(served_recipe, site, tmp_path):
    site(command=("vllm", "serve"))
    (tmp_path / "chat.jinja").write_text("{{ messages[0]['content'] }}")
    argv = vllm_server.server_command(served_recipe(**asking(tmp_path)), Nodes(first_port=12_340))
    assert words_after(argv, "--chat-template", "--generation-config") == [str(tmp_path / "chat.jinja"), "vllm"]
    assert not {"--weight-transfer-config", "--logprobs-mode"} & set(argv)


def asking(tmp_path, **generate) -> dict:
    """Sections of a recipe whose prompts a server answers."""
    return {
        "step": "generate",
        "model": {"name": "./model", "chat_template": "chat.jinja"},
        "rewards": [],
        "trainer": {},
        "generate": {"max_completion_length": 16, "samples": 2, "prompts_per_shard": 3, **generate},
        "hardware": {"vllm": {"start_timeout_seconds": 60.0}},
    }


def test_prompts_are_answered_by_the_server_that_the_launcher_starts(served_recipe, site, smallest_model, tmp_path):
    site(ANSWERS)
    sections = asking(tmp_path) | {"model": {"name": str(smallest_model)}}
    assert running.launch(served_recipe(**sections), tmp_path / "run") == 0
    counts = json.loads((tmp_path / "run" / "generate.json").read_text())
    assert counts["kept"] == counts["sampled"] == 16
    assert counts["counts"] == {"requests": 16}


@pytest.mark.parametrize(
    ("sections", "line"),
    [
        (
            {"generate": {"max_completion_length": 8, "endpoint": {"base_url": "http://x/v1", "model": "m"}}},
            "remove one",
        ),
        (
            {
                "step": "evaluate",
                "model": {},
                "data": [],
                "generate": None,
                "evaluate": {"benchmarks": ["tiny_sums"], "models": {"a": "./model"}},
            },
            "name it as model.name",
        ),
        ({"step": "sft", "rewards": [], "generate": None, "trainer": {"max_steps": 1}}, "step sft has no server"),
    ],
)
def test_servers_that_nobody_asks(sections, line, served_recipe, tmp_path):
    (tmp_path / "chat.jinja").write_text("{{ messages[0]['content'] }}")
    given = {key: value for key, value in (asking(tmp_path) | sections).items() if value is not None}
    assert line in next(incompatible_settings(served_recipe(**given), {}))


@pytest.mark.slow
def test_several_processes_ask_one_server(served_recipe, site, smallest_model, tmp_path):
    site(ANSWERS)
    sections = asking(tmp_path) | {"model": {"name": str(smallest_model)}}
    sections["hardware"] = {**sections["hardware"], "processes_per_node": 2, "threads_per_process": 1}
    assert running.launch(served_recipe(**sections), tmp_path / "run") == 0
    assert json.loads((tmp_path / "run" / "generate.json").read_text())["counts"] == {"requests": 16}


@pytest.mark.parametrize(
    ("step", "processes", "at_once"), [("generate", 1, 512), ("generate", 8, 64), ("evaluate", 8, 512)]
)
def test_every_copy_has_as_many_requests_at_once(step, processes, at_once, served_recipe, tmp_path, monkeypatch):
    monkeypatch.setenv(vllm_server.URL, "http://x")
    (tmp_path / "chat.jinja").write_text("")
    hardware = {"processes_per_node": processes, "vllm": {"data_parallel_size": 8}}
    sections = asking(tmp_path) | {"hardware": hardware, "step": step}
    if step == "evaluate":
        sections |= {"generate": None, "data": [], "evaluate": {"benchmarks": ["tiny_sums"]}}
    recipe = served_recipe(**{key: value for key, value in sections.items() if value is not None})
    assert endpoint_of(recipe).max_concurrent_requests == at_once
