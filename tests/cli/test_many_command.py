"""`jaxvae train --seeds N`: what is printed, kept and refused."""

import json

import pytest

from jaxvae.cli.main import main

OPTIONS = (
    "--hidden 8 --latent-dim 2 --batch-size 400 --total-steps 4 --eval-every-steps 2 "
    "--test-num-samples 2 --name a"
).split()


@pytest.mark.slow
def test_seeds(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["train", *OPTIONS, "--seeds", "2"])
    out = capsys.readouterr().out
    assert "mean over 2 runs" in out
    assert "a report in each folder of runs/a" in out
    for name in ("seed-0", "seed-1"):
        assert (tmp_path / "runs/a" / name / "report.html").stat().st_size > 10_000
        metrics = (tmp_path / "runs/a" / name / "metrics.jsonl").read_text().splitlines()
        assert [json.loads(line)["step"] for line in metrics] == [2, 4]
    main(["compare", "runs/a/seed-0", "runs/a/seed-1", "--num-samples", "2"])
    assert "seed-1" in capsys.readouterr().out
    for options in (["--seeds", "3"], ["--betas", "1", "2"], ["--seed", "5"]):
        with pytest.raises(SystemExit):
            main(["train", "--resume", "runs/a", *options])
        (line,) = capsys.readouterr().err.splitlines()
        assert options[0].strip("-") in line
    for command in ("evaluate", "report"):
        with pytest.raises(SystemExit):
            main([command, "runs/a"])
        (line,) = capsys.readouterr().err.splitlines()
        assert "runs/a" in line
