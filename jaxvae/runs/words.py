"""The records of studies as rows of text: name, value and meaning."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]
Row = tuple[str, str, str]

TITLES = {
    "ais": "Annealed importance sampling",
    "gaps": "Inference gaps",
    "structure": "What the latents hold",
    "probes": "Probes of the representation",
    "imputation": "Missing values",
}
"""The titles of studies, by name."""


def plus_minus(pair: Sequence[float], digits: int = 2) -> str:
    """Format a mean and its standard error, which may be unknown."""
    value, error = pair
    spread = f"{error:.{digits}f}" if math.isfinite(error) else "unknown"
    return f"{value:.{digits}f} ± {spread}"


def rows_of(record: Record) -> list[Row]:
    """Describe a study's numbers in words.

    Args:
        record: the record from `study`.

    Returns:
        Rows of name, value with its standard error, and meaning.
    """
    return ROWS[record["study"]](record)


def sentences_of(record: Record) -> list[str]:
    """Return the warnings of a study; empty if there are none."""
    return list(record.get("sentences", ()))


def _nats(pair: Sequence[float]) -> str:
    return f"{plus_minus(pair)} nats"


def _percent(pair: Sequence[float]) -> str:
    return f"{plus_minus([100 * value for value in pair])} %"


def _ais(record: Record) -> list[Row]:
    count, samples = record["examples"], record["num_samples"]
    start = {"prior": "the prior", "posterior": "q(z|x)"}[record["start"]]
    chains = (
        f"{record['num_chains']} chains of {record['num_temperatures']:,} temperatures from {start}"
    )
    simulated = f"{count:,} examples drawn from the model"
    if record["label"] is not None:
        simulated += f" given label {record['label']}"
    return [
        (f"log p(x), IWAE-{samples:,}", _nats(record["iwae"]), f"the first {count:,} examples"),
        ("log p(x), AIS", _nats(record["ais"]), f"the same ones, by {chains}"),
        ("AIS above IWAE by", _nats(record["ais_minus_iwae"]), "paired; both are lower bounds"),
        ("Simulated, at least", _nats(record["lower"]), f"of {simulated}"),
        ("Simulated, at most", _nats(record["upper"]), "reverse chains from the exact posterior"),
        ("Gap between the two", _nats(record["gap"]), "what AIS can be off by on such examples"),
    ]


def _gaps(record: Record) -> list[Row]:
    own = record["encoder_family"]
    rows = [
        ("log p(x)", _nats(record["log_evidence"]), record["source"]),
        ("ELBO of the encoder", _nats(record["encoder"]), f"its q(z|x) is of the family: {own}"),
        ("Total gap", _nats(record["total"]), f"over the first {record['examples']:,} examples"),
    ]
    for name, of in record["families"].items():
        also = "" if name == own else "; the encoder's family is another"
        rows += [
            (f"Approximation, {name}", _nats(of["approximation"]), "what the best q of it lacks"),
            (f"Amortisation, {name}", _nats(of["amortisation"]), f"what the encoder adds{also}"),
        ]
    return rows


def _structure(record: Record) -> list[Row]:
    near = "; near its ceiling" if record["mutual_information"][0] > 0.9 * record["ceiling"] else ""
    return [
        ("Rate", _nats(record["rate"]), "the sum of the two that follow"),
        (
            "Mutual information",
            _nats(record["mutual_information"]),
            f"of x and z; at most log N = {record['ceiling']:.2f}{near}",
        ),
        (
            "Marginal KL",
            _nats(record["marginal_kl"]),
            "from the aggregate posterior to the prior",
        ),
        (
            "z of another example",
            _nats(record["drop"]),
            f"what it costs the decoder, in log p(x|z): z is {record['verdict']}",
        ),
        (
            "MMD², p-value",
            f"{record['mmd2']:.2g}, {record['p_value']:.2g}",
            "aggregate posterior against the prior; a small p-value tells them apart",
        ),
    ]


def _probes(record: Record) -> list[Row]:
    taught = f"taught by {record['train_examples']:,} training examples"
    rows = [
        ("Linear probe", _percent(record["linear"]), f"accuracy on posterior means, {taught}"),
        ("  of x itself", _percent(record["linear_of_x"]), "the same without a model"),
        ("Nearest neighbours", _percent(record["knn"]), "accuracy on posterior means"),
        ("  of x itself", _percent(record["knn_of_x"]), "the same without a model"),
        (
            f"Clusters, k = {record['clusters']}",
            f"NMI {record['nmi']:.3f}, ARI {record['ari']:.3f}",
            f"k-means against the labels; accuracy {100 * record['accuracy']:.1f} %",
        ),
    ]
    names = {
        "mig": ("MIG", "mutual information gap"),
        "sap": ("SAP", "separated attribute predictability"),
        "modularity": ("Modularity", "one factor a latent"),
        "dci_disentanglement": ("DCI disentanglement", "one factor a latent, by importance"),
        "dci_completeness": ("DCI completeness", "one latent a factor"),
        "dci_informativeness": ("DCI informativeness", "factors predicted from the latents"),
    }
    scores = record.get("disentanglement", {})
    return rows + [
        (name, f"{scores[key]:.3f}", f"{meaning}, 0 to 1")
        for key, (name, meaning) in names.items()
        if key in scores
    ]


def _imputation(record: Record) -> list[Row]:
    hidden = f"{100 * record['missing']:.0f} % of the values of {record['examples']:,} examples"
    rows = [("Hidden", hidden, f"effective sample size {record['ess']:.0f}")]
    if "draw" in record:
        return [
            *rows,
            ("Filled in rightly", _percent(record["draw"]), "one draw of p(missing|observed)"),
            ("  by the column", _percent(record["common"]), "its most frequent training value"),
        ]
    return [
        *rows,
        (
            "Mean square error",
            plus_minus(record["mean_square_model"], 4),
            "of E[missing|observed] under the model",
        ),
        (
            "  of the column's mean",
            plus_minus(record["mean_square_column"], 4),
            "over training examples, whatever was observed",
        ),
    ]


ROWS: Mapping[str, Callable[[Record], list[Row]]] = {
    "ais": _ais,
    "gaps": _gaps,
    "structure": _structure,
    "probes": _probes,
    "imputation": _imputation,
}
