"""What `jaxvae train` does, without the report; then what it left, as a digest. Run by test_device.py.

python -m tests.devices.accelerator_run train|resume FOLDER
"""

import hashlib
import json
import sys
from pathlib import Path

import jax
import numpy as np

from jaxvae.runs import RunFolder, TrainConfig
from jaxvae.runs.config import build
from jaxvae.runs.train import _fresh, resume, train

CONFIG = TrainConfig(
    hidden=(64,),
    latent_dim=4,
    batch_size=100,
    total_steps=3000,
    eval_every_steps=100,
    test_num_samples=10,
    seed=3,
)


def digests(run: RunFolder) -> dict[str, str]:
    """Of every array of both checkpoints, and of what is written, but for the clock."""
    fresh = _fresh(build(run.config()))
    found = {}
    with run.checkpoints() as checkpoints:
        for which, step in (("last", checkpoints.last()), ("best", checkpoints.best())):
            saved = checkpoints.restore(step, fresh)
            key = jax.random.key_data(saved.state.key)
            leaves = jax.tree.leaves(saved._replace(state=saved.state._replace(key=key)))
            found[which] = digest(b"".join(np.asarray(leaf).tobytes() for leaf in leaves))
    timed = ("steps_per_s", "time")
    metrics = [{k: v for k, v in r.items() if k not in timed} for r in run.metrics()]
    written = [metrics, run.read("results.json")]
    return found | {"written": digest(json.dumps(written, sort_keys=True).encode())}


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:16]


if __name__ == "__main__":
    how, folder = sys.argv[1], Path(sys.argv[2])
    run = train(CONFIG, folder) if how == "train" else resume(folder)
    print(json.dumps(digests(run)))
