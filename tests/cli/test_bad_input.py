"""What a user can get wrong ends with one clear line and exit status 2, and leaves nothing behind."""

import gzip
import shutil
import struct
import subprocess

import numpy as np
import pytest

from jaxvae.cli.main import main

SHORT = ("--total-steps", "4", "--batch-size", "10", "--hidden", "8", "--test-num-samples", "2")


@pytest.fixture
def fails(capsys, tmp_path, monkeypatch):
    """Run the command; return the one line that it fails with."""
    monkeypatch.chdir(tmp_path)

    def run(*args):
        with pytest.raises(SystemExit) as stop:
            main([str(arg) for arg in args])
        out, err = capsys.readouterr()
        assert stop.value.code == 2
        assert out == ""
        (line,) = err.splitlines()
        assert line.startswith("jaxvae: error: ")
        return line

    return run


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("--data nosuchset", "nosuchset"),
        ("--data missing.npz", "missing.npz"),
        ("--binarize none", 'binarize="dynamic"'),
        ("--batch-size 5000", "batch_size: expected at most 1297"),
        ("--valid-size 2000", "empty split"),
        ("--valid-size -1", "valid_size"),
        ("--latent-dim 0", "latent_dim: expected an integer of at least 1, got 0"),
        ("--total-steps -3", "total_steps: expected an integer of at least 1, got -3"),
        ("--total-steps many", "--total-steps"),
        ("--num-samples 0", "num_samples"),
        ("--seed -1", "seed"),
        ("--beta nan", "beta"),
        ("--learning-rate -1", "learning_rate"),
        ("--hidden 0", "hidden"),
        ("--kl-warmup-steps 6000", "kl_warmup_steps: expected 0 to 4999"),
        ("--learning-rate-warmup-steps 6000", "learning_rate_warmup_steps"),
        ("--eval-every-steps 6000", "eval_every_steps"),
        ("--objective iwae --beta 2", "beta: has no effect"),
        ("--objective iwae --kl monte_carlo", "kl: has no effect"),
        ("--likelihood gaussian --binarize dynamic --data-dir .", "data_dir: has no effect"),
        ("--objective other", "other"),
        ("--bogus 3", "--bogus"),
        ("--resume runs/none", "does not exist"),
        (
            "--max-minutes 0",
            "max_minutes: expected a finite number above 0 (leave it out for no limit), got 0",
        ),
        (
            "--max-minutes nan",
            "max_minutes: expected a finite number above 0 (leave it out for no limit), got nan",
        ),
    ],
)
def test_train_refuses(fails, options, expected, tmp_path):
    assert expected in fails("train", *options.split())
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("command", ["evaluate", "sample", "report"])
def test_a_run_that_does_not_exist(fails, command):
    assert "runs/none does not exist" in fails(command, "runs/none")


def test_no_command_and_no_run(fails):
    assert "train, evaluate, compare, sample, report, bench, data" in fails()
    assert "jaxvae evaluate --help" in fails("evaluate")


def idx(array: np.ndarray) -> bytes:
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    return header + array.tobytes()


@pytest.fixture
def idx_folder(tmp_path):
    folder = tmp_path / "idx"
    folder.mkdir()
    random = np.random.default_rng(0)
    for name, size in (("train", 40), ("t10k", 20)):
        images = random.integers(0, 256, (size, 4, 4), np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(images[:, 0, 0] % 10))
    return folder


def test_idx_missing(fails, idx_folder):
    (idx_folder / "t10k-images-idx3-ubyte").unlink()
    assert "t10k-images" in fails("train", "--data", idx_folder)


def test_idx_truncated(fails, idx_folder):
    file = idx_folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-7])
    assert "train-images-idx3-ubyte" in fails("train", "--data", idx_folder)


def test_idx_truncated_gzip(fails, idx_folder):
    file = idx_folder / "train-images-idx3-ubyte"
    whole = gzip.compress(file.read_bytes())
    file.unlink()
    (idx_folder / "train-images-idx3-ubyte.gz").write_bytes(whole[: len(whole) // 2])
    assert "train-images-idx3-ubyte.gz" in fails("train", "--data", idx_folder)


def test_idx_mislabelled(fails, idx_folder):
    images, labels = (idx_folder / f"train-{kind}-ubyte" for kind in ("images-idx3", "labels-idx1"))
    labels.write_bytes(images.read_bytes())
    assert "train-labels-idx1-ubyte" in fails("train", "--data", idx_folder)


def test_npz_truncated(fails, tmp_path):
    file = tmp_path / "a.npz"
    np.savez(file, x=np.zeros((50, 4), np.float32))
    file.write_bytes(file.read_bytes()[:100])
    assert "a.npz" in fails("train", "--data", file)


def test_npz_mislabelled(fails, tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((50, 4), np.float32))
    assert "images" in fails("train", "--data", tmp_path / "a.npz")


def test_object_array_is_never_unpickled(fails, tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}] * 20), allow_pickle=True)
    assert "pickle" in fails("train", "--data", tmp_path / "a.npy")


def test_nan_pixels(fails, tmp_path):
    x = np.full((50, 4), 0.5, np.float32)
    x[7, 2] = np.nan
    np.save(tmp_path / "a.npy", x)
    assert "nan" in fails("train", "--data", tmp_path / "a.npy").lower()


def test_empty_split(fails, tmp_path):
    x = np.full((50, 4), 0.5, np.float32)
    np.savez(tmp_path / "a.npz", x_train=x, x_test=x[:0])
    assert "empty split" in fails("train", "--data", tmp_path / "a.npz")


def test_a_name_that_is_taken(fails, tmp_path):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    assert "--resume" in fails("train", "--name", "a", *SHORT)


def test_a_folder_that_cannot_be_made(fails):
    assert "cannot write to /proc/a" in fails("train", "--runs-dir", "/proc", "--name", "a", *SHORT)


def test_a_file_in_the_place_of_the_folder(fails, tmp_path):
    (tmp_path / "runs").write_text("")
    assert "cannot write" in fails("train", "--name", "a", *SHORT)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 400 kB, where this process may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_full_disk(fails, small_disk):
    assert "MB are free" in fails("train", "--runs-dir", small_disk, "--name", "a", "--seed", "1")
    (small_disk / "fill").write_bytes(b"0" * shutil.disk_usage(small_disk).free)
    assert "No space left" in fails("train", "--runs-dir", small_disk, "--name", "b")


def test_read_only_disk(fails, small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "Read-only" in fails("train", "--runs-dir", small_disk, "--name", "a")
