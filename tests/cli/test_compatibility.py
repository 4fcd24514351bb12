"""What users have written down goes on to work: the options of every command, and run folders of earlier versions.

The folders are in `tests/golden/run-VERSION.tar.gz`, each stopped at step 10 of 20, with its results at the end as
that version gave them. `python -m tests.cli.test_compatibility` prints the options as they are now.
"""

import contextlib
import io
import json
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from jaxvae.cli import main
from tests.support.golden import TOLERANCE

GOLDEN = Path(__file__).parents[1] / "golden"
OPTIONS = GOLDEN / "options.json"
FOLDERS = sorted(GOLDEN.glob("run-*.tar.gz"))
COMMANDS = ("train", "evaluate", "compare", "sample", "report", "bench", "data")


def options_of(command):
    """The names of the options in the help of a command."""
    shown = io.StringIO()
    with pytest.raises(SystemExit), contextlib.redirect_stdout(shown):
        main([command, "--help"])
    text = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
    heads = (line.strip("│ ") for line in text.splitlines())
    return sorted(
        {o for head in heads if head[:2] == "--" for o in re.findall(r"--[a-z][a-z-]*", head)}
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_no_option_is_gone_and_every_new_one_is_written_down(command):
    assert options_of(command) == json.loads(OPTIONS.read_text())[command]


def test_check_of_options_rejects():
    written = json.loads(OPTIONS.read_text())
    assert "--latent-dim" in written["train"]
    assert options_of("train") != [o for o in written["train"] if o != "--latent-dim"]
    assert options_of("train") != options_of("evaluate")


# Run folders.


def unpacked(archive, tmp_path):
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    return folder


def check_results(found, expected):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if isinstance(value, float | list):
            np.testing.assert_allclose(found[name], value, rtol=TOLERANCE, err_msg=name)
        else:
            assert found[name] == value, name


@pytest.mark.slow
@pytest.mark.parametrize("archive", FOLDERS, ids=lambda path: path.name)
def test_a_run_of_an_earlier_version_is_evaluated_and_goes_on_to_its_end(
    archive, tmp_path, as_users
):
    folder = unpacked(archive, tmp_path)
    expected = json.loads((folder / "expected.json").read_text())
    (folder / "expected.json").unlink()
    with as_users():
        main(["evaluate", str(folder), "--num-samples", "5"])
        main(["train", "--resume", str(folder)])
    found = json.loads((folder / "results.json").read_text())
    check_results(found, expected)
    with pytest.raises(AssertionError):
        check_results(found | {"rate": [expected["rate"][0] * (1 + 2e-5), 0.0]}, expected)


@pytest.mark.slow
def test_a_run_whose_weights_are_lost_does_not_go_on(tmp_path, as_users, capsys):
    folder = unpacked(FOLDERS[-1], tmp_path)
    shutil.rmtree(folder / "checkpoints")
    with as_users(), pytest.raises(SystemExit) as stopped:
        main(["evaluate", str(folder)])
    assert stopped.value.code == 2
    assert "checkpoint" in capsys.readouterr().err


def test_there_is_a_run_of_an_earlier_version():
    assert FOLDERS


if __name__ == "__main__":
    print(json.dumps({command: options_of(command) for command in COMMANDS}, indent=1))
