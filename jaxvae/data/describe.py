"""A summary of a data set as a small text table."""

import numpy as np

from jaxvae.data.dataset import BINARIZE, Dataset, observed
from jaxvae.data.on_disk import OnDisk


def describe(dataset: Dataset) -> str:
    """Describe a data set and its splits in lines of text.

    Values are the observed stored values divided by `scale`, before any binarisation or dequantisation.

    >>> import jaxvae.data
    >>> print(describe(jaxvae.data.load("digits")).splitlines()[0])
    name         digits
    """
    facts = {
        "name": dataset.name,
        "source": dataset.source,
        "event shape": "x".join(map(str, dataset.event_shape)),
        "support": dataset.support_name,
        "binarize": f"{dataset.binarize} ({BINARIZE[dataset.binarize]})",
        "scale": f"{dataset.scale:g}",
    }
    if dataset.dequantize:
        facts["dequantize"] = "each grey level is spread over its cell at every use"
    if dataset.num_classes is not None:
        facts["classes"] = str(dataset.num_classes)
    if dataset.num_categories is not None:
        facts["categories"] = str(dataset.num_categories)
    facts |= _of_rows(dataset)
    lines = [f"{name:<12} {value}" for name, value in facts.items()]
    lines += ["", f"{'split':<6} {'size':>9} {'mean':>10} {'min':>10} {'max':>10}  labels"]
    lines += [_row(dataset, split) for split in dataset.splits]
    return "\n".join(lines)


def _of_rows(dataset: Dataset) -> dict[str, str]:
    """Summarise masks and weights for each split, and the number of values of each factor."""
    facts = {}
    in_memory = {s: a for s, a in dataset.splits.items() if not isinstance(a, OnDisk)}
    if factors := [arrays["factors"] for arrays in in_memory.values() if "factors" in arrays]:
        values = [str(len(np.unique(column))) for column in np.concatenate(factors).T]
        facts["factors"] = [f"{len(values)}, of {', '.join(values)} values"]
    for split, arrays in in_memory.items():
        if "mask" in arrays:
            missing = 1 - arrays["mask"].mean(dtype=np.float64)
            facts.setdefault("missing", []).append(f"{split} {missing:.3%}")
        if "weight" in arrays:
            total = arrays["weight"].sum(dtype=np.float64)
            facts.setdefault("weight", []).append(f"{split} {total:,.1f}")
    return {name: ", ".join(parts) for name, parts in facts.items()}


def _row(dataset: Dataset, split: str) -> str:
    arrays = dataset.splits[split]
    x = observed(arrays)
    if isinstance(arrays, OnDisk):
        low, high = x.min() / dataset.scale, x.max() / dataset.scale
        return f"{split:<6} {arrays.size:>9,} {'on disk':>10} {low:>10.4g} {high:>10.4g}  on disk"
    mean, low, high = (
        float(value) / dataset.scale for value in (x.mean(dtype=np.float64), x.min(), x.max())
    )
    labels = " ".join(map(str, np.bincount(arrays["label"]))) if "label" in arrays else "none"
    return f"{split:<6} {len(arrays['x']):>9,} {mean:>10.4g} {low:>10.4g} {high:>10.4g}  {labels}"
