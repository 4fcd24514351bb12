"""A data set as a small table of text."""

import numpy as np

from jaxvae.data.dataset import BINARIZE, Dataset


def describe(dataset: Dataset) -> str:
    """What a data set is and how its splits look, in lines of text.

    Values are those that `observe` divides by `scale`, before any bits are drawn.

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
    if dataset.num_classes is not None:
        facts["classes"] = str(dataset.num_classes)
    lines = [f"{name:<12} {value}" for name, value in facts.items()]
    lines += ["", f"{'split':<6} {'size':>9} {'mean':>10} {'min':>10} {'max':>10}  labels"]
    lines += [_row(dataset, split) for split in dataset.splits]
    return "\n".join(lines)


def _row(dataset: Dataset, split: str) -> str:
    arrays = dataset.splits[split]
    x = arrays["x"]
    mean, low, high = (
        float(value) / dataset.scale for value in (x.mean(dtype=np.float64), x.min(), x.max())
    )
    labels = " ".join(map(str, np.bincount(arrays["label"]))) if "label" in arrays else "none"
    return f"{split:<6} {len(x):>9,} {mean:>10.4g} {low:>10.4g} {high:>10.4g}  {labels}"
