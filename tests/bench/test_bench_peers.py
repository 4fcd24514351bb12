"""Twins in other libraries: the protocol with a real one, their bounds against ours, and deaths in one line."""

import importlib.util
import math
import os
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from jaxvae.bench import Deadline, measure, twins
from jaxvae.bench.ceiling import prepare_ceiling, square_product
from jaxvae.bench.peers import serve
from jaxvae.bench.suites import HALF_PEERS
from jaxvae.bench.twins import Twin, TwinDied, Twins, commands
from jaxvae.bench.workloads import LAYERS, WORKLOADS, Job, Layers, draw_rows

ROWS, BATCH_SIZE = 200, 100
SMALL = {"vae": Layers(40, 5, 1), "iwae50": Layers(30, 6, 7)}


def sizes(layers):
    return {**layers._asdict(), "batch_size": BATCH_SIZE, "rows": ROWS}


def parameters(layers):
    """Two networks of three layers each, with biases."""
    width, latent_dim, _ = layers
    return sum(
        inputs * width + width + width * width + width + width * outputs + outputs
        for inputs, outputs in ((784, 2 * latent_dim), (latent_dim, 784))
    )


@pytest.fixture(autouse=True, scope="module")
def compiled_fast():
    """Processes optimise as little as this one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
        yield


@pytest.fixture(scope="module")
def ours():
    """Mean and standard deviation over initial weights of our loss before training."""
    rows = draw_rows(BATCH_SIZE)

    def of(layers):
        _, objective = layers.build(jax.random.key(0))

        @jax.jit
        def loss(key):
            weights, noise = jax.random.split(key)
            model, _ = layers.build(weights)
            keys = jax.random.split(noise, BATCH_SIZE)
            return -jax.vmap(lambda key, x: objective(key, model, x).objective)(keys, rows).mean()

        losses = [float(loss(key)) for key in jax.random.split(jax.random.key(7), 12)]
        return np.mean(losses), np.std(losses, ddof=1)

    return {name: of(layers) for name, layers in SMALL.items()}


def agrees(loss, mean_and_deviation):
    """Within what another draw of initial weights makes: t of 11 degrees, two-sided, 1e-4 false alarms."""
    mean, deviation = mean_and_deviation
    return abs(loss - mean) < 5.9 * deviation * math.sqrt(1 + 1 / 12)


def check(command, layers, reference):
    """Its first line, then as many steps as asked, twice."""
    twin = Twin(command)
    try:
        twin.come_up(300.0)
        assert twin.about["parameters"] == parameters(layers)
        assert agrees(twin.about["loss"], reference)
        assert not agrees(BATCH_SIZE * twin.about["loss"], reference)  # the sum over the batch
        assert not agrees(twin.about["loss"] / 784, reference)  # the mean over pixels
        assert twin.about["warm_up_s"] > 0
        assert twin.about["version"][0].isdigit()
        assert twin.run(1) > 0
        assert twin.run(3) > 0
    finally:
        twin.close()
    with pytest.raises(ProcessLookupError):
        os.kill(twin._process.pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_numpyro_takes_the_steps_of_our_bound(ours, name):
    command = commands(sys.executable, "float32", sizes(SMALL[name]))["numpyro"]
    check(command, SMALL[name], ours[name])


HERE = sys.executable if importlib.util.find_spec("torch") else ""
TORCH_PYTHON = os.environ.get("JAXVAE_TEST_TORCH_PYTHON", HERE)


@pytest.mark.slow
@pytest.mark.skipif(
    not TORCH_PYTHON, reason="no PyTorch: set JAXVAE_TEST_TORCH_PYTHON to a Python that has it"
)
@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("half", [False, True])
def test_torch_takes_the_steps_of_our_bound(ours, name, half):
    command = commands(TORCH_PYTHON, "float32", sizes(SMALL[name]))["torch-eager"]
    if half:
        command = [*command, "--precision=bfloat16"]
    check(command, SMALL[name], ours[name])


def asked(command):
    """What a twin says, asked once."""
    twin = Twin(command)
    try:
        twin.come_up(60.0)
        return twin.run(2)
    finally:
        twin.close()


def python(code):
    return [sys.executable, "-c", code]


ANSWERS = """
import json, sys
print(json.dumps({"version": "1", "parameters": 1, "loss": 1.0, "warm_up_s": 1.0}), flush=True)
for line in sys.stdin:
    print(1e-3 * int(line), flush=True)
"""
DIES = (
    ANSWERS.partition("    print(1e")[0]
    + "    print('first line', file=sys.stderr)\n    sys.exit('out of memory')"
)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["/nowhere/python"], "cannot start /nowhere/python: No such file or directory"),
        (python("raise ImportError('no torch')"), "ImportError: no torch"),
        (python("import os; os._exit(3)"), "it ended with status 3"),
        (python("print('hello')"), "expected a number, it said 'hello'"),
        (python(DIES), "out of memory"),
    ],
)
def test_what_a_dead_twin_leaves_is_one_line(command, said):
    with pytest.raises(TwinDied) as death:
        asked(command)
    assert str(death.value) == said


def test_a_silent_twin_is_late():
    twin = Twin(python("input()"))
    try:
        with pytest.raises(TwinDied, match="not up after 0 s"):
            twin.come_up(0.2)
    finally:
        twin.close()
    twin = Twin(python(ANSWERS.replace("1e-3 * int(line)", "input()")))
    try:
        twin.come_up(60.0)
        with pytest.raises(TwinDied, match="no answer for 0 s"):
            twin.run(1, patience_s=0.2)
    finally:
        twin.close()


@pytest.fixture
def beside(monkeypatch):
    """Twins whose commands are these."""

    def start(only=None, **found):
        said = []
        monkeypatch.setattr(twins, "commands", lambda *_: found)
        return Twins(sys.executable, "float32", ROWS, 0.001, said.append, only), said

    return start


def test_ratios_are_paired_by_round(beside):
    troupe, _ = beside(only=["numpyro"], numpyro=python(ANSWERS), other=python(ANSWERS))
    with troupe:
        troupe.start("vae", 4)
        troupe.start("ssvae", 4)  # has no twin
        assert len(troupe) == 1
        troupe.come_up(Deadline())
        troupe.calibrate()
        assert troupe.record("vae") == {}  # before the first round
        for steps_per_s in (500.0, 2000.0, 4000.0):
            troupe.take("vae", steps_per_s)
        found = troupe.record("vae")["numpyro"]
        assert found["steps_per_s"]["median"] == pytest.approx(1000)
        ratio = found["ratio"]
        assert [ratio[key] for key in ("min", "median", "max")] == pytest.approx([0.5, 2.0, 4.0])
        assert found["loss"] == 1.0
        assert not troupe.record("ssvae")
        (twin,) = troupe._twins.values()
    with pytest.raises(ProcessLookupError):
        os.kill(twin._process.pid, 0)


def test_twins_come_up_side_by_side(beside):
    """Each writes when it began and then sleeps: all begin before the first is up. Who is late is left out."""
    sleeps = "import time, json\nbegun = time.time()\ntime.sleep(SECONDS)\n" + ANSWERS.replace(
        '"version": "1"', '"version": "1", "begun": begun, "up": time.time()'
    )
    troupe, said = beside(
        one=python(sleeps.replace("SECONDS", "2")),
        other=python(sleeps.replace("SECONDS", "2")),
        late=python(sleeps.replace("SECONDS", "90")),
    )
    with troupe:
        for name in ("vae", "iwae50"):
            troupe.start(name, 4)
        troupe.come_up(Deadline(), seconds=10.0)
        about = [twin.about for twin in troupe._twins.values()]
        assert len(about) == 4
        last, first = max(one["begun"] for one in about), min(one["up"] for one in about)
        assert last < first  # the twin that starts one after the other has it the other way round
        processes = [twin._process.pid for twin in troupe._twins.values()]
    assert troupe.left_out == ["vae, iwae50 / late: left out: not up after 10 s"]
    assert set(troupe.left_out) <= set(said)
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_nobody_is_waited_for_beyond_the_deadline(beside):
    troupe, _ = beside(late=python("input()"))
    begin = time.monotonic()
    with troupe:
        troupe.start("vae", 4)
        troupe.come_up(Deadline(0.5))
    assert len(troupe.left_out) == 1
    assert time.monotonic() - begin < 30  # and not two minutes


def test_the_others_go_on_without_a_dead_one(beside):
    missing = python("raise ModuleNotFoundError(\"No module named 'torch'\")")
    found = {"torch-eager": missing, "torch-compile": missing}
    troupe, said = beside(**found, numpyro=python(ANSWERS))
    with troupe:
        for name in ("vae", "iwae50"):
            troupe.start(name, 4)
        troupe.come_up(Deadline())
        troupe.calibrate()
        for name in ("vae", "iwae50"):
            troupe.take(name, 1.0)
            assert list(troupe.record(name)) == ["numpyro"]
    (line,) = troupe.left_out  # once, for both workloads
    assert line in said
    assert line.startswith(
        "vae, iwae50 / torch-eager, vae, iwae50 / torch-compile: left out: ModuleNotFoundError: No module"
    )
    assert "--torch-python" in line


def test_one_that_cannot_be_started_is_left_out(beside):
    troupe, _ = beside(numpyro=["/nowhere/python"])
    with troupe:
        troupe.start("vae", 4)
        troupe.come_up(Deadline())
    assert troupe.left_out == [
        "vae / numpyro: left out: cannot start /nowhere/python: No such file or directory"
    ]


def test_one_that_dies_in_a_round_is_left_out(beside):
    lives_for_a_while = ANSWERS.replace(
        "    print", "    line != '7\\n' or sys.exit('gone')\n    print"
    )
    troupe, _ = beside(numpyro=python(lives_for_a_while))
    with troupe:
        troupe.start("vae", 4)
        troupe.come_up(Deadline())
        troupe.calibrate()
        troupe.take("vae", 1.0)
        troupe._steps["vae", "numpyro"] = 7
        troupe.take("vae", 1.0)
        assert troupe.record("vae") == {}
    assert troupe.left_out == ["vae / numpyro: left out: gone"]


def test_a_server_says_in_one_line_what_is_missing(tmp_path):
    """The real server by an interpreter without the library, here one that must not look for it."""
    command = commands(sys.executable, "float32", sizes(LAYERS["vae"]))["torch-eager"]
    (tmp_path / "torch.py").write_text("raise ImportError('broken\\ninstallation')")
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    ended = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == "ImportError: broken installation\n"


def test_each_name_is_the_same_arithmetic_at_every_precision(monkeypatch):
    def options(precision):
        found = commands("other", precision, sizes(LAYERS["vae"]))
        return {name: next(w for w in words if "--precision" in w) for name, words in found.items()}

    full = "--precision=float32"
    plain = {"torch-eager": full, "torch-compile": full, "numpyro": full}
    assert options("float32") == plain
    assert options("bfloat16") == {**plain, "torch-compile-bf16": "--precision=bfloat16"}
    assert set(options("highest").values()) == {"--precision=highest"}
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    half = {name for name, its in options("bfloat16").items() if its == "--precision=bfloat16"}
    assert half == set(HALF_PEERS)


def test_on_a_gpu_every_step_of_torch_is_there_as_a_graph_too(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = commands("other", "float32", sizes(LAYERS["vae"]))
    switches = {name: {"--compile", "--graph"} & set(words) for name, words in found.items()}
    assert switches == {
        "torch-eager": set(),
        "torch-compile": {"--compile"},
        "torch-graph": {"--graph"},
        "torch-compile-graph": {"--compile", "--graph"},
        "numpyro": set(),
    }
    assert all("--platform=gpu" in words for words in found.values())
    for words in found.values():  # the server understands each
        assert serve.parse(words[2:]).platform == "gpu"


@pytest.mark.skipif(not TORCH_PYTHON, reason="no PyTorch: set JAXVAE_TEST_TORCH_PYTHON")
def test_a_graph_without_a_gpu_is_refused_in_words():
    command = commands(TORCH_PYTHON, "float32", sizes(SMALL["vae"]))["torch-eager"]
    with pytest.raises(TwinDied, match="RuntimeError: a CUDA graph needs a GPU"):
        asked([*command, "--graph"])


def test_measured_beside_a_twin(beside, monkeypatch):
    monkeypatch.setattr("jaxvae.bench.ceiling.SIZES", {"cpu": 8})
    products = square_product("float32", 8)
    job = Job(prepare_ceiling("float32", 8).run, 3, 1.0, 1, products)
    stand_in = WORKLOADS["vae"]._replace(prepare=lambda *_: job)
    monkeypatch.setitem(WORKLOADS, "vae", stand_in)
    beside(numpyro=python(ANSWERS))
    timing = {"rounds": 2, "seconds_a_round": 0.001, "batch_size": 3}
    published = []
    found = measure(["vae"], draw_rows(9), **timing, peers=True, publish=published.append)
    assert [one["workloads"]["vae"]["rounds"] for one in published] == [1, 2]
    assert published[-1] == found
    us = found["workloads"]["vae"]
    assert "loop" not in us  # of a job that has none
    them = us["peers"]["numpyro"]
    low, high = (us["steps_per_s"][key] / 1000 for key in ("min", "max"))
    assert them["ratio"]["min"] == pytest.approx(low)
    assert them["ratio"]["max"] == pytest.approx(high)
    assert found["peers_left_out"] == []
