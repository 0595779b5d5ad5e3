"""A run that is asked to stop saves what it has, says so, and ends like one in a piece once it is taken up again."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import CPU_TRAINER, REPOSITORY, sums

from open_r1 import launch, running, signals
from open_r1.places import ACCELERATE_CONFIGS
from open_r1.recipe import RecipeError, dump_recipe, load_recipe, parse_recipe
from open_r1.resuming import check_recipe_of, differing_keys, last_checkpoint
from open_r1.run_record import read_record, start_record, update_record, weights_sha256
from open_r1.step_process import run_step

TRAINER = {
    **CPU_TRAINER,
    "max_steps": 5,
    "logging_steps": 2,
    "save_strategy": "no",
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-2,
    "lr_scheduler_type": "constant",
}
GRPO_TRAINER = {**TRAINER, "num_generations": 4, "max_completion_length": 6}
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{REPOSITORY / 'src'}:{REPOSITORY / 'tests'}",
    "OMP_NUM_THREADS": "1",
}


def number_of_characters(completions, trainer_state, **columns):
    """Length of each completion; on its way it sends the signals that INTERRUPT asks for: `SIGTERM 2 launcher`."""
    *names, after_step, whom = os.environ.get("INTERRUPT", "-1 itself").split()
    if trainer_state.global_step == int(after_step):
        send(names, whom)
    return [float(len(completion[-1]["content"])) for completion in completions]


def send(names: list[str], whom: str) -> None:
    """Sends signals to a process of the run: `launcher` is open_r1.launch, `rank1` the second of those that train.

    A launcher's have come down to this process when it returns: the steps are shorter than their way may take.
    """
    import psutil

    if whom == "rank1" and os.environ["RANK"] != "1":
        return
    if whom in ("launcher", "pipeline") and os.environ.get("RANK", "0") != "0":
        return
    ancestors = [os.getpid(), *(parent.pid for parent in psutil.Process().parents())]
    pid = ancestors[{"itself": 0, "rank1": 0, "launcher": 2, "pipeline": 3}[whom]]
    for sent, name in enumerate(names, 1):
        os.kill(pid, signal.Signals[name])
        while pid != os.getpid() and len(signals._received) < sent:  # two at once may overtake one another
            os.sched_yield()


@pytest.fixture
def recipe_with(write_recipe, smallest_model):
    """Writes a recipe of the step with trainer keys and sections over those of a short run, and loads it."""

    def write(step: str = "grpo", trainer: dict | None = None, **sections):
        of_step = {
            "sft": {"trainer": TRAINER},
            "grpo": {"trainer": GRPO_TRAINER, "rewards": ["test_interruption:number_of_characters"]},
            "distill": {
                "trainer": TRAINER,
                "rewards": ["rewards_of_tests:number_of_characters"],
                "distill": {"teacher": str(smallest_model), "max_completion_length": 100},
                "keep": {"min_reward": 0.0},
            },
        }[step]
        values = {
            "step": step,
            "model": {"name": str(smallest_model)},
            "data": [sums(32)],
            "guards": {"max_truncated_share": None, "max_dead_steps": None},
            "hardware": {"processes_per_node": 1, "threads_per_process": 1},
            **of_step,
            **sections,
        }
        values["trainer"] = {**of_step["trainer"], **(trainer or {})}
        return load_recipe(write_recipe(f"{step}.yaml", **values))

    return write


# --- What a resumed run must agree with


def grpo_recipe(**changes):
    values = {
        "step": "grpo",
        "model": {"name": "/models/base"},
        "data": [{"path": "/data/rows.jsonl"}],
        "rewards": ["accuracy"],
        "trainer": {},
        **{key: value for key, value in changes.items() if key != "trainer"},
    }
    values["trainer"] = {"max_steps": 10, **changes.get("trainer", {})}
    return parse_recipe(values, Path("recipes/x.yaml"))


CONSTANT = {"lr_scheduler_type": "constant", "warmup_steps": 0.1}  # which constant does not look at
AFTER_WARMUP = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}
AFTER_A_SHARE = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 0.1}
DIFFERENCES = [
    # sections of the run, of the recipe it is to be taken up with, keys that are refused
    ({}, {}, []),
    ({}, {"description": "again", "guards": {"max_dead_steps": 3}}, []),
    ({}, {"hardware": {"usd_per_hour": 2.0}}, []),
    ({}, {"trainer": {"logging_steps": 3, "save_steps": 7, "save_strategy": "no", "report_to": "wandb"}}, []),
    ({}, {"trainer": {"lr_scheduler_type": "linear", "beta": 0.0}}, []),  # TRL's defaults, written out
    ({}, {"trainer": {"learning_rate": 1e-5}}, ["trainer.learning_rate"]),
    ({"trainer": {"learning_rate": 1e-5}}, {}, ["trainer.learning_rate"]),
    ({}, {"seed": 1, "model": {"name": "/models/other"}}, ["seed", "model.name"]),
    ({}, {"model": {"name": "/models/base", "lora": {"r": 8}}}, ["model.lora"]),
    ({}, {"data": [{"path": "/data/rows.jsonl", "fraction": 0.5}]}, ["data.0.fraction"]),
    ({}, {"data": [{"path": "/data/rows.jsonl"}, {"path": "/data/more.jsonl"}]}, ["data.1"]),
    ({}, {"rewards": [{"name": "accuracy", "weight": 0.5}]}, ["rewards.0.weight"]),
    ({}, {"hardware": {"processes_per_node": 2}}, ["hardware.processes_per_node"]),
    ({}, {"hardware": {"threads_per_process": 2}}, ["hardware.threads_per_process"]),
    ({}, {"grpo": {"sort_by_length": False}}, ["grpo.sort_by_length"]),
    ({}, {"trainer": {"max_steps": 20}}, ["trainer.max_steps"]),  # linear is the default
    ({"trainer": CONSTANT}, {"trainer": {**CONSTANT, "max_steps": 20, "num_train_epochs": 2.0}}, []),
    ({"trainer": AFTER_WARMUP}, {"trainer": {**AFTER_WARMUP, "max_steps": 20}}, []),
    ({"trainer": AFTER_A_SHARE}, {"trainer": {**AFTER_A_SHARE, "max_steps": 20}}, ["trainer.max_steps"]),
    (
        {"trainer": CONSTANT},
        {"trainer": {**CONSTANT, "lr_scheduler_type": "cosine", "max_steps": 20}},
        ["trainer.max_steps", "trainer.lr_scheduler_type"],
    ),
]


@pytest.mark.parametrize(("made_with", "now", "refused"), DIFFERENCES)
def test_what_must_not_differ(made_with, now, refused):
    found = differing_keys(grpo_recipe(**made_with), grpo_recipe(**now))
    assert sorted(key for key, *_ in found) == sorted(refused)


@pytest.fixture
def run_of_three_steps(tmp_path):
    """Makes a run directory with a checkpoint of step 3 that a recipe has made, and gives it."""

    def make(recipe) -> Path:
        run_dir = tmp_path / "runs" / "x"
        for step in (3, 2, 10):
            checkpoint = run_dir / "checkpoints" / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "recipe.yaml").write_text(dump_recipe(recipe))
        checkpoint.rename(run_dir / "checkpoints" / "checkpoint-10.bak")
        start_record(run_dir, recipe, "x.yaml", [])
        return run_dir

    return make


def test_refusal_names_each_key_both_values_and_the_mend(run_of_three_steps):
    run_dir = run_of_three_steps(grpo_recipe())
    checkpoint = last_checkpoint(run_dir / "checkpoints")
    assert checkpoint.name == "checkpoint-3"
    with pytest.raises(RecipeError) as refused:
        check_recipe_of(checkpoint, grpo_recipe(trainer={"max_steps": 20, "beta": 0.1}, seed=1))
    seed, max_steps, beta = refused.value.lines
    assert seed == (
        "recipes/x.yaml: seed: 0 -> 1: checkpoint-3 was made with the first, so the run cannot be taken up with the "
        "second; set it back, or begin another run (without --resume)"
    )
    assert max_steps.startswith("recipes/x.yaml: trainer.max_steps: 10 -> 20: ")
    assert "trainer.lr_scheduler_type: linear" in max_steps
    assert beta.startswith("recipes/x.yaml: trainer.beta: 0.0 -> 0.1: ")


def test_run_cannot_become_shorter_than_it_is(run_of_three_steps):
    run_dir = run_of_three_steps(grpo_recipe(trainer=CONSTANT))
    with pytest.raises(RecipeError, match="max_steps: 2 is less than checkpoint-3 has done"):
        check_recipe_of(last_checkpoint(run_dir / "checkpoints"), grpo_recipe(trainer={**CONSTANT, "max_steps": 2}))


def test_checkpoint_without_a_recipe_is_trusted(run_of_three_steps):
    checkpoint = last_checkpoint(run_of_three_steps(grpo_recipe()) / "checkpoints")
    (checkpoint / "recipe.yaml").unlink()
    check_recipe_of(checkpoint, grpo_recipe(seed=1))


def test_last_checkpoint_has_the_highest_number(tmp_path):
    assert last_checkpoint(tmp_path / "nowhere") is None
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-11.bak", "unfinished"):
        (tmp_path / name).mkdir()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_launcher_refuses_before_torch_is_imported(recipe_with, run_of_three_steps):
    recipe = recipe_with()
    run_dir = run_of_three_steps(recipe)
    arguments = ["grpo", str(recipe.source), "trainer.learning_rate=1e-3", "--resume", str(run_dir)]
    program = f"import sys\nfrom open_r1 import launch\nprint(launch.main({arguments!r}), 'torch' in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=ENVIRONMENT)
    assert finished.stdout.split() == ["2", "False"]
    assert finished.stderr.startswith(f"{recipe.source}: trainer.learning_rate: 0.01 -> 0.001: checkpoint-3 was made")
    assert finished.stderr.count("\n") == 1


def test_resume_of_what_is_no_run_is_refused(recipe_with, tmp_path, capsys):
    assert launch.main(["grpo", str(recipe_with().source), "--resume", str(tmp_path)]) == 2
    assert "there is no run.json to take up" in capsys.readouterr().err


def test_resume_from_other_weights_is_refused(recipe_with, run_of_three_steps, capsys):
    recipe = recipe_with()
    run_dir = run_of_three_steps(recipe)
    update_record(run_dir, parents=[{"name": "base", "run": "x", "weights_sha256": "of other weights"}])
    assert launch.main(["grpo", str(recipe.source), "--resume", str(run_dir)]) == 2
    assert "model.name: the weights there are no longer those that" in capsys.readouterr().err


def test_run_that_was_prolonged_is_not_moved_away_for_the_recipe_that_began_it(recipe_with, tmp_path, capsys):
    recipe = recipe_with()
    run_dir = running.run_directory(recipe, tmp_path / "runs")
    start_record(run_dir, recipe_with(trainer={"max_steps": 9}), "x.yaml", [])
    recipe_with()
    assert launch.main(["grpo", str(recipe.source), "--runs", str(tmp_path / "runs")]) == 2
    assert f"--resume {run_dir}" in capsys.readouterr().err
    assert run_dir.is_dir()


# --- Signals and processes


@pytest.fixture
def no_signals_yet(monkeypatch):
    monkeypatch.setattr(signals, "_received", [])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_launcher_sends_signals_on_and_waits(name, tmp_path, no_signals_yet, recipe_with, monkeypatch):
    """The step's process asks for the signal itself, and ends when the launcher has sent it on."""
    program = (
        "import os, signal, sys\n"
        "signals = [signal.SIGTERM, signal.SIGUSR1]\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signals)\n"
        f"os.kill(os.getppid(), signal.{name})\n"
        "sent = signal.sigtimedwait(signals, 30)\n"
        f"sys.exit(75 if sent and sent.si_signo == signal.{name} else 1)\n"
    )
    monkeypatch.setattr(running, "command", lambda recipe, run_dir: [sys.executable, "-c", program])
    recipe, run_dir = recipe_with(), tmp_path / "run"
    assert running.launch(recipe, run_dir) == 75
    assert read_record(run_dir)["status"] == "interrupted"
    assert json.loads((run_dir / "interrupted").read_text())["signal"] == name
    monkeypatch.setattr(running, "_run", lambda argv, environment: 0)
    assert running.launch(recipe, run_dir) == 0
    assert read_record(run_dir)["status"] == "done"
    assert not (run_dir / "interrupted").exists()


def test_process_that_a_signal_ends_before_it_can_answer_was_interrupted(
    tmp_path, no_signals_yet, recipe_with, monkeypatch
):
    program = "import os, signal\nos.kill(os.getpid(), signal.SIGUSR1)\nsignal.pause()"
    monkeypatch.setattr(running, "command", lambda recipe, run_dir: [sys.executable, "-c", program])
    assert running.launch(recipe_with(), tmp_path / "run") == 75
    marker = json.loads((tmp_path / "run" / "interrupted").read_text())
    assert (marker["signal"], marker["step"]) == ("SIGUSR1", None)


WAITS_FOR_A_SIGNAL = """
import os, signal, sys
signals = [signal.SIGTERM, signal.SIGUSR1]
signal.pthread_sigmask(signal.SIG_BLOCK, signals)
rank = os.environ.get("RANK", "0")
open(f"{sys.argv[1]}/ready{rank}", "w").close()
if all(os.path.exists(f"{sys.argv[1]}/ready{rank}") for rank in range(int(sys.argv[2]))):
    os.kill(os.getppid(), signal.Signals[sys.argv[3]])  # the last to be there
name = signal.Signals(signal.sigwait(signals)).name
open(f"{sys.argv[1]}/{name}{rank}", "w").close()
while any(not os.path.exists(f"{sys.argv[1]}/{name}{rank}") for rank in range(int(sys.argv[2]))):
    os.sched_yield()  # or the agent ends the others with a signal of its own
os._exit(75)
"""


@pytest.mark.parametrize(
    ("config", "num_processes", "name"), [("cpu", 2, "SIGTERM"), ("cpu", 2, "SIGUSR1"), ("alone", 1, "SIGUSR1")]
)
def test_accelerate_launch_sends_signals_on_to_every_process(config, num_processes, name, tmp_path):
    program = tmp_path / "program.py"
    program.write_text(WAITS_FOR_A_SIGNAL)
    (tmp_path / "alone.yaml").write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nuse_cpu: true\nnum_machines: 1\nmachine_rank: 0\n"
        "main_training_function: main\nrdzv_backend: static\nsame_network: true\nmixed_precision: 'no'\n"
    )
    file = ACCELERATE_CONFIGS / "cpu.yaml" if config == "cpu" else tmp_path / "alone.yaml"
    finished = subprocess.run(
        [
            *(sys.executable, "-m", "open_r1.accelerate_launch", "--config_file", str(file)),
            *("--num_processes", str(num_processes), "--num_machines", "1", "--main_process_port", "0"),
            *(str(program), str(tmp_path), str(num_processes), name),
        ],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        timeout=60,  # a process that the signal does not reach waits for ever
    )
    assert finished.returncode == 75, finished.stderr
    assert "Traceback" not in finished.stderr
    assert len(list(tmp_path.glob(f"{name}*"))) == num_processes


def test_accelerate_launch_ends_at_once_where_nothing_runs_yet():
    program = "import os, signal\nfrom open_r1 import accelerate_launch, signals\n"
    program += "signals.answer_with(accelerate_launch._send_on)\nos.kill(os.getpid(), signal.SIGTERM)"
    assert subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT).returncode == 75


def test_launcher_that_is_asked_before_it_starts_anything_ends_with_one_line(
    recipe_with, tmp_path, no_signals_yet, monkeypatch, capsys
):
    monkeypatch.setattr(launch, "check_recipe", lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGTERM))
    assert launch.main(["grpo", str(recipe_with().source), "--runs", str(tmp_path / "runs")]) == 75
    assert capsys.readouterr().out == "interrupted by SIGTERM; the same command goes on from here\n"
    assert not (tmp_path / "runs").exists()


def test_step_that_is_asked_before_it_trains_ends_with_one_line(
    recipe_with, tmp_path, no_signals_yet, monkeypatch, capsys
):
    def loads_data(recipe, run_dir):
        try:
            os.kill(os.getpid(), signal.SIGUSR1)
        except Exception:  # noqa: BLE001 as libraries do
            pytest.fail("no library may take it for a fault")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # must not disturb the clearing up
            cleared_up.append(True)

    cleared_up = []
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe_with()))
    monkeypatch.setattr("sys.argv", ["grpo", str(tmp_path)])
    before = [signal.getsignal(signum) for signum in signals.SIGNALS]
    try:
        with pytest.raises(SystemExit) as ended:
            run_step(loads_data)
        os.kill(os.getpid(), signal.SIGTERM)  # a process that is ending ends as it said
    finally:
        for signum, handler in zip(signals.SIGNALS, before, strict=True):
            signal.signal(signum, handler)
    assert ended.value.code == 75
    assert cleared_up
    assert capsys.readouterr().err == "interrupted by SIGUSR1\n"
    assert json.loads((tmp_path / "interrupted").read_text())["step"] is None


FORKED = """
import os, signal
from open_r1 import signals
signals.answer_with(signals.remember)
child = os.fork()
if child == 0:
    os.kill(os.getpid(), signal.SIGUSR1)
    os.kill(os.getpid(), signal.SIGTERM)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), signals.received())
"""


def test_helpers_that_a_process_forks_die_of_sigterm_alone():
    finished = subprocess.run([sys.executable, "-c", FORKED], capture_output=True, text=True, env=ENVIRONMENT)
    assert finished.stdout.split() == [str(-signal.SIGTERM), "None"]


# --- Training


def train(recipe, run_dir: Path) -> None:
    import torch

    from open_r1.distill import distill
    from open_r1.grpo import grpo
    from open_r1.sft import sft

    run_dir.mkdir(exist_ok=True)
    torch.set_num_threads(1)
    {"sft": sft, "grpo": grpo, "distill": distill}[recipe.step](recipe, run_dir)


@pytest.fixture
def ask_in_step(monkeypatch, no_signals_yet):
    """Has a run in this process get signals in the middle of its n-th step; returns what forgets them again."""
    from open_r1 import training

    class SignalsInStep(training.Progress):
        def on_step_begin(self, args, state, control, **kwargs):
            if state.global_step + 1 == step[0]:
                send(["SIGUSR1", "SIGTERM"], "itself")

    step = [0]

    def ask(in_step: int) -> None:
        step[0] = in_step
        signals._received.clear()

    monkeypatch.setattr(training, "Progress", SignalsInStep)
    return ask


def assert_same_run(one: Path, other: Path) -> None:
    def metrics(run_dir: Path) -> list:
        lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
        return [(line["step"], line.get("loss"), line.get("grad_norm"), line.get("entropy")) for line in lines]

    assert metrics(one) == metrics(other)
    assert weights_sha256(one / "model") == weights_sha256(other / "model")


EVALUATED = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "best", "metric_for_best_model": "reward"}
RUNS = {
    "sft": {"step": "sft"},
    "distill": {"step": "distill"},
    "grpo": {"step": "grpo"},
    "grpo, in the middle of a rollout": {"trainer": {"steps_per_generation": 4, "gradient_accumulation_steps": 2}},
    "checkpoints of the model alone": {"trainer": {"save_strategy": "steps", "save_only_model": True}},
    "checkpoints of the best alone": {"trainer": EVALUATED, "eval_data": [sums(4)]},
}


@pytest.mark.parametrize("name", RUNS)
def test_interrupted_run_ends_like_one_in_a_piece(name, recipe_with, tmp_path, ask_in_step):
    recipe = recipe_with(**RUNS[name])
    whole, interrupted = tmp_path / "whole", tmp_path / "interrupted"
    train(recipe, whole)
    ask_in_step(3)
    with pytest.raises(signals.Interrupted, match="interrupted by SIGUSR1 after step 3"):
        train(recipe, interrupted)
    assert not (interrupted / "model").exists()
    assert last_checkpoint(interrupted / "checkpoints").name == "checkpoint-3"
    ask_in_step(0)
    train(recipe, interrupted)
    assert_same_run(whole, interrupted)


def test_signal_in_the_last_step_changes_nothing(recipe_with, tmp_path, ask_in_step):
    ask_in_step(TRAINER["max_steps"])
    train(recipe_with("sft"), tmp_path / "run")
    assert signals.received() == signal.SIGUSR1
    assert (tmp_path / "run" / "model").is_dir()


def test_signal_that_was_lost_before_training_is_heard_when_it_begins(recipe_with, tmp_path, no_signals_yet):
    signals._received.append(signal.SIGTERM)
    with pytest.raises(signals.Interrupted, match="interrupted by SIGTERM$"):
        train(recipe_with("sft"), tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_step_refuses_a_checkpoint_of_another_recipe(recipe_with, tmp_path, ask_in_step):
    ask_in_step(2)
    with pytest.raises(signals.Interrupted):
        train(recipe_with("sft"), tmp_path / "run")
    ask_in_step(0)
    with pytest.raises(RecipeError, match=r"trainer.learning_rate: 0.01 -> 0.001: checkpoint-2 was made"):
        train(recipe_with("sft", trainer={"learning_rate": 1e-3}), tmp_path / "run")


def test_run_that_is_prolonged_ends_like_one_that_was_meant_to_be_as_long(recipe_with, tmp_path, monkeypatch, capsys):
    short = {"max_steps": 3, "save_strategy": "steps", "save_steps": 100}
    train(recipe_with(trainer={"max_steps": 5}), tmp_path / "whole")
    recipe = recipe_with(trainer=short)
    run_dir = running.run_directory(recipe, tmp_path / "runs")

    def run(argv, environment) -> int:
        train(load_recipe(run_dir / "recipe.yaml"), run_dir)
        return 0

    monkeypatch.setattr(running, "_run", run)
    assert launch.main(["grpo", str(recipe.source), "--runs", str(tmp_path / "runs")]) == 0
    prolonged = ["grpo", str(recipe.source), "--resume", str(run_dir), "trainer.max_steps=5"]
    assert launch.main(prolonged) == 0
    assert_same_run(tmp_path / "whole", run_dir)
    record = read_record(run_dir)
    assert (record["status"], record["attempts"], record["recipe"]["trainer"]["max_steps"]) == ("done", 2, 5)
    assert launch.main(prolonged) == 0
    assert "is done already" in capsys.readouterr().out


# --- Real processes through the real launcher


def run_launcher(
    step: str, recipe, runs: Path, interrupt: str | None = None, timeout_seconds: float | None = None
) -> subprocess.CompletedProcess:
    """Returns when every process of the run has closed its output."""
    environment = ENVIRONMENT | ({"INTERRUPT": interrupt} if interrupt else {})
    command = [sys.executable, "-m", "open_r1.launch", step, str(recipe.source), "--runs", str(runs)]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=timeout_seconds
    )


def interrupt_and_take_up(recipe, runs: Path, interrupt: str) -> Path:
    """The run directory of a run that was interrupted in its third step and taken up again."""
    run_dir = running.run_directory(recipe, runs)
    interrupted = run_launcher(recipe.step, recipe, runs, interrupt)
    assert interrupted.returncode == 75, interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    signal_name = interrupt.split()[0]
    assert interrupted.stdout.splitlines()[1:] == [
        f"grpo was interrupted by {signal_name} after step 3; the same command takes it up again. {run_dir}/run.json"
    ]
    assert interrupted.stderr.count(f"interrupted by {signal_name} after step 3") == 1
    assert read_record(run_dir)["status"] == "interrupted"
    assert not (run_dir / "model").exists()
    assert (run_dir / "interrupted").exists()
    again = run_launcher(recipe.step, recipe, runs)
    assert again.returncode == 0, again.stderr
    assert not (run_dir / "interrupted").exists()
    assert (read_record(run_dir)["status"], read_record(run_dir)["attempts"]) == ("done", 2)
    return run_dir


@pytest.mark.slow
def test_launcher_is_asked_to_stop_a_run_and_takes_it_up_again(recipe_with, tmp_path):
    recipe = recipe_with()
    run_dir = interrupt_and_take_up(recipe, tmp_path / "runs", "SIGUSR1 SIGTERM 2 launcher")
    train(recipe, tmp_path / "whole")
    assert_same_run(tmp_path / "whole", run_dir)


def end_with_their_launcher(recipe, runs: Path, interrupt: str) -> Path:
    """The run directory of a run whose launcher was killed in its third step; whoever lives on fails by the timeout."""
    killed = run_launcher(recipe.step, recipe, runs, interrupt, timeout_seconds=120)
    assert killed.returncode == -signal.SIGKILL
    run_dir = running.run_directory(recipe, runs)
    assert last_checkpoint(run_dir / "checkpoints").name == "checkpoint-2"
    assert read_record(run_dir)["status"] == "running"
    return run_dir


def test_launcher_that_is_killed_takes_its_process_with_it(recipe_with, tmp_path):
    recipe = recipe_with(trainer={"save_strategy": "steps", "save_steps": 1})
    end_with_their_launcher(recipe, tmp_path / "runs", "SIGKILL 2 launcher")


@pytest.mark.slow
def test_run_whose_launcher_was_killed_is_taken_up_again(recipe_with, tmp_path):
    recipe = recipe_with(
        trainer={"per_device_train_batch_size": 2, "save_strategy": "steps", "save_steps": 1},
        hardware={"processes_per_node": 2, "threads_per_process": 1},
    )
    assert run_launcher("grpo", recipe, tmp_path / "whole").returncode == 0
    run_dir = end_with_their_launcher(recipe, tmp_path / "runs", "SIGKILL 2 launcher")
    assert run_launcher("grpo", recipe, tmp_path / "runs").returncode == 0
    assert_same_run(running.run_directory(recipe, tmp_path / "whole"), run_dir)


def test_run_that_somebody_is_at_work_on_is_not_begun_again(recipe_with, tmp_path, capsys):
    recipe = recipe_with()
    run_dir = running.run_directory(recipe, tmp_path / "runs")
    with running.alone_at_work(run_dir):
        assert launch.main(["grpo", str(recipe.source), "--runs", str(tmp_path / "runs")]) == 2
    expected = f"{run_dir}: another process is at work on this run; wait for it, or end it\n"
    assert capsys.readouterr().err == expected
    assert not run_dir.exists()


@pytest.mark.slow
@pytest.mark.parametrize("interrupt", ["SIGTERM 2 launcher", "SIGUSR1 2 launcher", "SIGUSR1 2 rank1"])
def test_processes_of_a_run_stop_at_the_same_step(interrupt, recipe_with, tmp_path):
    recipe = recipe_with(
        trainer={"per_device_train_batch_size": 2},
        hardware={"processes_per_node": 2, "threads_per_process": 1},
    )
    assert run_launcher("grpo", recipe, tmp_path / "whole").returncode == 0
    run_dir = interrupt_and_take_up(recipe, tmp_path / "runs", interrupt)
    assert_same_run(running.run_directory(recipe, tmp_path / "whole"), run_dir)


@pytest.mark.slow
def test_pipeline_ends_with_the_stage_that_was_interrupted(recipe_with, write_recipe, tmp_path):
    recipe_with()
    stages = [{"name": "first", "recipe": "grpo.yaml"}, {"name": "second", "recipe": "grpo.yaml"}]
    stages[1]["set"] = {"model": {"name": "stage:first"}}
    recipe = load_recipe(write_recipe("pipeline.yaml", step="pipeline", stages=stages))
    run_dir = running.run_directory(recipe, tmp_path / "runs")
    # The launcher sends it to the pipeline, the pipeline to accelerate, and that to the process that trains.
    interrupted = run_launcher("pipeline", recipe, tmp_path / "runs", "SIGTERM 2 pipeline")
    assert interrupted.returncode == 75, interrupted.stderr
    assert "Traceback" not in interrupted.stderr
    assert read_record(run_dir)["status"] == read_record(run_dir / "first")["status"] == "interrupted"
    assert (run_dir / "interrupted").exists() and (run_dir / "first" / "interrupted").exists()
    assert not (run_dir / "second").exists()
    again = run_launcher("pipeline", recipe, tmp_path / "runs")
    assert again.returncode == 0, again.stderr
    assert [read_record(run_dir / stage)["attempts"] for stage in ("first", "second")] == [2, 1]
    assert not (run_dir / "interrupted").exists()
