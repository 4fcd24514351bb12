"""Training: state, step, loop and checkpoints. The only sign change, from bound to loss, is in `step`."""

from jaxvae.training.blocks import choose_block_steps
from jaxvae.training.em import make_em_step
from jaxvae.training.feeds import InMemory
from jaxvae.training.loop import fit, observe_batch, observe_split, stages
from jaxvae.training.metrics import Metrics
from jaxvae.training.schedules import learning_rate_schedule, linear_warmup
from jaxvae.training.step import TrainState, init, make_step
from jaxvae.training.streamed import Streamed, make_feed

__all__ = [
    "InMemory",
    "Metrics",
    "Streamed",
    "TrainState",
    "choose_block_steps",
    "fit",
    "init",
    "learning_rate_schedule",
    "linear_warmup",
    "make_em_step",
    "make_feed",
    "make_step",
    "observe_batch",
    "observe_split",
    "stages",
]
