"""Checkpoints: the leaves of a pytree by name, written atomically (orbax)."""

import logging
import shutil
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import jax
import numpy as np

from jaxvae.placement import local
from jaxvae.types import InputError

T = TypeVar("T")

MARGIN_BYTES = 200_000  # for orbax's files besides the arrays, and for file system blocks


class Checkpoints:
    """The last and the best checkpoint of a run, in one folder.

    A checkpoint holds only arrays, each named by its path in the pytree: no code, no pickle. It is
    written under a temporary name and then renamed, so a folder never holds an incomplete checkpoint.

    A single process writes and reads it, even if several train together: every array is complete on that
    process's devices. So the folder need not be shared, and any number of processes and devices can resume from it.

    Args:
        folder: the folder of the checkpoints; created when the first one is saved.
    """

    def __init__(self, folder: Path):
        import orbax.checkpoint as ocp  # 0.2 s that `import jaxvae` should not cost
        from orbax.checkpoint.checkpoint_managers import preservation_policy as keep

        logging.getLogger("absl").setLevel(logging.ERROR)
        self._ocp = ocp
        self.folder = folder.resolve()
        handler, options = ocp.StandardCheckpointHandler(), ocp.options.MultiprocessingOptions()
        if alone := jax.process_count() > 1:
            handler, options = _of_this_process(ocp)
            self.folder.mkdir(parents=True, exist_ok=True)  # orbax makes one for all processes only
        self._manager = ocp.CheckpointManager(
            self.folder,
            item_handlers=handler,
            options=ocp.CheckpointManagerOptions(
                best_fn=_loss,
                best_mode="min",
                preservation_policy=keep.AnyPreservationPolicy(
                    [keep.LatestN(1), keep.BestN(get_metric_fn=_loss, reverse=True, n=1)]
                ),
                # The buffers are donated to the next dispatch, so the save may not outlive its call.
                enable_async_checkpointing=False,
                cleanup_tmp_directories=True,
                create=not alone,
                multiprocessing_options=options,
            ),
        )

    def save(self, step: int, tree: Any, *, loss: float | None) -> None:
        """Save a pytree under a step number; the checkpoint with the lowest `loss` is the best.

        Raises:
            InputError: it could not be written. Earlier checkpoints are untouched.
        """
        if step in self._manager.all_steps():
            return
        metrics = {"loss": float("inf") if loss is None else float(loss)}
        if jax.process_count() == 1:
            tree = local(tree)  # with several processes orbax needs the arrays as they are placed
        arrays = _by_name(tree)
        self.require_room(tree)
        try:
            self._manager.save(step, args=self._ocp.args.StandardSave(arrays), metrics=metrics)
        except Exception as error:  # tensorstore reports a full disk as ValueError, OSError, ...
            raise InputError(
                f"checkpoint: step {step} could not be written to {self.folder} "
                f"({_first_line(error)}); earlier checkpoints are intact: make room or choose "
                "another folder, then resume"
            ) from error

    def require_room(self, tree: Any, *, copies: int = 1) -> None:
        """Refuse a disk without room for `copies` checkpoints of this pytree.

        Checked before writing, because orbax's threads print long traces when the disk fills up.

        Raises:
            InputError: the free space is too small.
        """
        size = copies * (sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + MARGIN_BYTES)
        free = shutil.disk_usage(self.folder).free
        if free < size:
            raise InputError(
                f"checkpoint: {copies} of them need {size / 1e6:.1f} MB in {self.folder}, where "
                f"{free / 1e6:.1f} MB are free; make room, then resume (what was saved is intact)"
            )

    def last(self) -> int | None:
        """Return the latest saved step; None if there is none."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """Return the step with the lowest validation loss; the latest step if no loss was given."""
        best = self._manager.best_step()
        metrics = None if best is None else self._manager.metrics(best)
        return best if metrics and np.isfinite(metrics["loss"]) else self.last()

    def restore(self, step: int, like: T) -> T:
        """Restore a step into the structure of `like`.

        Raises:
            InputError: the checkpoint is damaged, or holds other names, shapes or dtypes.
        """
        wanted = _by_name(like)
        where = f"{self.folder / str(step)}"
        abstract = jax.tree.map(self._ocp.tree.to_shape_dtype_struct, wanted)
        try:
            found = self._manager.item_metadata(step)
            differing = _differences(wanted, found)
            if differing:
                raise InputError(
                    f"checkpoint: {where} is of another model or optimiser: {differing}"
                )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                arrays = self._manager.restore(step, args=self._ocp.args.StandardRestore(abstract))
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"checkpoint: {where} cannot be read ({_first_line(error)}); "
                "delete that folder to fall back on an earlier checkpoint"
            ) from error
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    def close(self) -> None:
        """Release the folder."""
        self._manager.close()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _NoOtherProcess:
    """A replacement for orbax's check that every process has written its part."""

    def validate_all_array_metadatas(self, array_metadatas: Any) -> None:
        """Do nothing: there are no parts of other processes."""


def _of_this_process(ocp: Any) -> tuple[Any, Any]:
    """Return orbax's handler and options for one process of several that writes and reads alone."""
    this, types = jax.process_index(), ocp.type_handlers
    options = ocp.options.MultiprocessingOptions(primary_host=this, active_processes={this})
    arrays = types.ArrayHandler(
        primary_host=this,
        use_replica_parallel=False,  # otherwise each process writes only a part of a replicated array
        array_metadata_store=types.get_type_handler(jax.Array)._array_metadata_store,
    )
    handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
    handler._impl = ocp.PyTreeCheckpointHandler(
        multiprocessing_options=options,
        array_metadata_validator=_NoOtherProcess(),
        type_handler_registry=types.create_type_handler_registry(
            (np.ndarray, types.NumpyHandler()), (jax.Array, arrays)
        ),
    )
    return handler, options


def _loss(metrics: dict[str, float]) -> float:
    return metrics["loss"]


def _by_name(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _differences(wanted: dict[str, Any], found: Any) -> str:
    """Describe the first difference of the stored names and shapes from those wanted; "" if none."""
    stored = dict(found)
    for name in [*wanted, *stored]:
        if name not in stored:
            return f"{name} is missing"
        if name not in wanted:
            return f"{name} is not known to this configuration"
        shape = tuple(stored[name].shape)
        if not jax.dtypes.issubdtype(wanted[name].dtype, jax.dtypes.prng_key) and (
            shape != wanted[name].shape
        ):
            return f"{name} has shape {shape}, expected {wanted[name].shape}"
    return ""


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
