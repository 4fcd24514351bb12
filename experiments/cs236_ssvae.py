"""M2, the semi-supervised VAE of Stanford's CS236, problem set 2, on MNIST with 100 labels.

Claim: with 100 labels, ten a class, M2's mean test accuracy over three draws of the labels is at least 92 %.

    python experiments/cs236_ssvae.py --data mnist --data-dir DIR      # TFDS's prepared mnist
    python experiments/cs236_ssvae.py --data DIR                       # or a folder of the four IDX files
    python experiments/cs236_ssvae.py --data DIR --model m1            # M1: a VAE's posterior means, then scikit-learn
    python experiments/cs236_ssvae.py --data DIR --model m1m2          # M1+M2: M2 on samples of M1's posterior

Protocol: z = 64, one-hot y into encoder and decoder, 784-300-300 ELU, ReLU classifier 784-300-300-10, PyTorch's initial weights,
the exact sum over y, class weight 100, Adam 1e-3, batch 100, 30,000 steps, bits redrawn from the grey levels at every step (of
the labelled rows too), all 60,000 training images without their labels. The last step is evaluated on all 10,000 test images,
the classifier seeing their grey levels, the mean of the bits; on drawn bits it is about one point lower.
Source: Stanford CS236 (2018), problem set 2, 93.40 +- 1.39 %, supervised only 73.5 %; M1 and M1+M2: Kingma et al. (2014),
"Semi-supervised learning with deep generative models", here with smaller networks.

Measured (two busy cores of an AMD EPYC, JAX 0.10.2; 6 minutes a draw when quiet): the draws of seed 0 came to 93.65, 92.59 and
89.37 %, mean 91.87 +- 2.23 (sd), just short of the claim; supervised only 75.57, 78.82 and 76.60 %. A fourth draw (--seed 1
--draws 1) came to 85.77 % with fours and nines taken for one another, supervised only 77.42 %: over all four the mean is
90.34 +- 3.55, and the claim is missed. Which ten images a class are labelled decides more than the last steps do.

Accuracy by step, of one earlier run of the first draw:

    step          2,000   4,000   6,000   8,000   10,000   12,000   14,000   16,000   18,000
    grey levels   82.77   85.06   88.17   89.85    89.87    90.54    91.67    91.33    93.45 %
    drawn bits    81.60   84.22   87.42   89.16    89.19    89.77    90.80    90.36    92.44 %

It still rises and sways by a point or two at the end; no schedule shorter than the source's is known to do. What was tried
beside the source's protocol, 30,000 steps of one draw each: with the bound of labelled rows (--labelled-bound 1) 89.32 % on the
first draw of seed 0 and, in another order of the rows, 91.20 % on that of seed 1; a learning rate that falls to 0 (--decay
cosine) 91.79 % on the first draw of seed 0. M1+M2 was at 86.2 % after 10,000 steps of the
same draw. None of them takes the mean beyond the spread of the draws.
"""

import argparse
import statistics
import time
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.svm import SVC

import jaxvae as jv
from jaxvae.evaluation import Classification, classification, posterior_moments
from jaxvae.semi_supervised import choose_labelled, label_log_probs, redrawn, semi_supervised
from jaxvae.training import learning_rate_schedule

CLASSES = 10
SMALL = {"initializer": "fan_in_uniform"}


def fit(key, model, objective, data, *, total_steps, peak=1e-3, decay="constant", **options):
    """Adam for so many steps; the trained model."""
    optimizer = optax.adam(learning_rate_schedule(peak, total_steps, decay=decay))
    step = jv.training.make_step(objective, optimizer, schedules=options.pop("schedules", None))
    state = jv.training.init(key, model, optimizer)
    options = {"batch_size": 100, "total_steps": total_steps} | options
    state, history = jv.training.fit(state, step, data, **options)
    print(f"  {history[-1]['train']}", flush=True)
    return state.model


class Labelled(NamedTuple):
    """The rows whose labels are known, as an objective and its schedules take them."""

    y: np.ndarray
    schedules: Mapping[str, Any]

    @staticmethod
    def choose(key: jax.Array, data: Any, num_labels: int) -> "Labelled":
        """As many of every class; their bits are redrawn at every step."""
        rows = data.splits["train"]
        chosen = choose_labelled(key, rows["label"], num_labels, CLASSES)
        of_step = redrawn(jax.random.fold_in(key, 1), data.observe, rows["x"][chosen])
        return Labelled(rows["label"][chosen], {"labelled_x": of_step})


def labels_alone(key, model, x, *, labelled_x, labelled_y):
    """The objective of the supervised baseline, which sees no other row."""
    del key, x
    return jnp.mean(label_log_probs(model, labelled_x, labelled_y))


def m2(key, data, labelled, how, *, labelled_bound=0.0, **options: Any):
    """M2 on the rows of a data set, the labels weighing 100."""
    model_key, run_key = jax.random.split(key)
    model = jv.models.ssvae(model_key, data.event_shape, num_classes=CLASSES, **SMALL, **options)
    known = {"labelled_y": labelled.y, "labelled_bound": labelled_bound}
    objective = partial(semi_supervised, **known)
    return fit(run_key, model, objective, data, **how, schedules=labelled.schedules)


def supervised(key: jax.Array, data: Any, labelled: Labelled, *, total_steps: int):
    """M2's classifier by itself, on the labelled rows alone."""
    model_key, run_key = jax.random.split(key)
    options = {"num_classes": CLASSES, "latent_dim": 1, "hidden": (1,)}
    model = jv.models.ssvae(
        model_key, data.event_shape, **options, **SMALL, classifier_hidden=(300, 300)
    )
    objective = partial(labels_alone, labelled_y=labelled.y)
    options = {"total_steps": total_steps, "batch_size": 1, "schedules": labelled.schedules}
    return fit(run_key, model, objective, data, **options)


def m1(key: jax.Array, data: Any, how: Mapping[str, Any]) -> jv.models.VAE:
    """M1: a VAE, whose posterior is the new representation of x."""
    model_key, run_key = jax.random.split(key)
    options = {"latent_dim": 50, "hidden": (300, 300), "activation": "elu"}
    model = jv.models.vae(model_key, data.event_shape, **options, **SMALL)
    return fit(run_key, model, jv.elbo, data, **how)


class Codes:
    """q(z1|x) of every row of a data set as a data set, drawn anew at every use: what M1+M2 is fitted to."""

    def __init__(self, key: jax.Array, model: jv.Model, data: Any):
        self.splits = {}
        for i, (split, rows) in enumerate(data.splits.items()):
            xs = jv.training.observe_split(jax.random.fold_in(key, i), data, split)
            moments = posterior_moments(model, xs)
            stored = np.stack([moments.mean, np.sqrt(moments.variance)], axis=1)
            self.splits[split] = {**rows, "x": stored}
        self.event_shape = stored.shape[2:]

    def observe(self, key: jax.Array, x: jax.Array) -> jax.Array:
        """One sample of z1 from its mean and standard deviation, [2, D] -> [D]."""
        mean, scale = x
        return mean + scale * jax.random.normal(key, mean.shape)


def test(model: Any, data: Any) -> Classification:
    """On all test rows, the classifier seeing what they are on average: grey levels, or means of z1."""
    rows = data.splits["test"]
    if isinstance(data, Codes):
        return classification(model, rows["x"][:, 0], rows["label"])
    return classification(model, np.float32(rows["x"]) / data.scale, rows["label"])


def m1_accuracies(model: jv.Model, data: Any, labelled: Labelled) -> dict[str, float]:
    """Of scikit-learn's classifiers on the posterior means of the labelled rows."""
    train = posterior_moments(model, labelled.schedules["labelled_x"](jnp.int32(0))).mean
    xs = jv.training.observe_split(jax.random.key(0), data, "test")
    features = posterior_moments(model, xs).mean
    classifiers = {
        "logistic regression": LogisticRegression(max_iter=1000),
        "3 nearest neighbours": KNeighborsClassifier(3),
        "SVM, RBF kernel": SVC(),
    }
    labels = data.splits["test"]["label"]
    return {
        name: float(classifier.fit(train, labelled.y).score(features, labels))
        for name, classifier in classifiers.items()
    }


def say(name: str, accuracies: list[float]) -> None:
    """Mean and standard deviation over the draws, in per cent."""
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
    each = ", ".join(f"{100 * a:.2f}" for a in accuracies)
    print(f"{name:<22} {100 * statistics.mean(accuracies):.2f} +- {100 * spread:.2f} %   ({each})")


def main() -> None:
    """Train with every draw of labels, and print the claim beside what came out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a TFDS name or a folder of IDX files")
    parser.add_argument("--data-dir", help="where prepared TFDS sets lie")
    parser.add_argument("--model", choices=["m2", "m1", "m1m2"], default="m2")
    parser.add_argument("--draws", type=int, default=3, help="of the labels, weights and samples")
    parser.add_argument("--num-labels", type=int, default=100)
    parser.add_argument("--total-steps", type=int, default=30_000, help="shorter to try it out")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--decay",
        choices=["constant", "linear", "cosine"],
        default="constant",
        help="of the learning rate, to 0 at the end; constant is the course's",
    )
    parser.add_argument(
        "--labelled-bound",
        type=float,
        default=0.0,
        help="weight of the bound of labelled rows in M2; 0 is the course's",
    )
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    data = jv.data.load(args.data, data_dir=args.data_dir, binarize="dynamic", valid_size=0)
    how = {"total_steps": args.total_steps, "peak": args.learning_rate, "decay": args.decay}
    found, begin = {}, time.perf_counter()
    first, confusion = None, None
    for draw in range(args.draws):
        key = jax.random.fold_in(jax.random.key(args.seed), draw)
        keys = list(jax.random.split(key, 5))
        labelled = Labelled.choose(keys[0], data, args.num_labels)
        steps = min(1000, args.total_steps)
        baseline = supervised(keys[1], data, labelled, total_steps=steps)
        results = {"supervised only": test(baseline, data).accuracy}
        if args.model == "m2":
            result = test(
                m2(keys[2], data, labelled, how, labelled_bound=args.labelled_bound), data
            )
            results["M2"], confusion = result.accuracy, result.confusion
        else:  # one M1 serves all draws of labels: it sees none
            first = first or m1(keys[3], data, how)
            results |= m1_accuracies(first, data, labelled)
        if args.model == "m1m2":
            codes = Codes(keys[4], first, data)
            of_codes = Labelled.choose(keys[0], codes, args.num_labels)
            options = {"likelihood": "gaussian", "latent_dim": 50}
            result = test(m2(keys[2], codes, of_codes, how, **options), codes)
            results["M1+M2"], confusion = result.accuracy, result.confusion
        for name, accuracy in results.items():
            found.setdefault(name, []).append(accuracy)
            print(f"draw {draw}: {name} {100 * accuracy:.2f} %", flush=True)
    for name, accuracies in found.items():
        say(name, accuracies)
    print(f"{(time.perf_counter() - begin) / 60:.1f} minutes")
    if confusion is not None:
        print("rows: the class, columns: what it was taken for, of the last draw")
        print("\n".join(" ".join(f"{n:5d}" for n in row) for row in confusion))


if __name__ == "__main__":
    main()
