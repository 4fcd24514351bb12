"""Alignments of protein sequences: FASTA text in the A2M convention."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxvae.checks import known_number
from jaxvae.data.raw import Raw, one_line
from jaxvae.data.similarity import similarity
from jaxvae.types import InputError

ALIGNMENTS = (".a2m", ".afa", ".fa", ".fasta")
SEQUENCE_IDENTITY = 0.8

# The gap comes first: an encoder sees class 0 in place of a missing value.
SYMBOLS = "-ACDEFGHIKLMNPQRSTVWY"
"""The letter of each class: the gap, then the 20 amino acids."""

_GAP, _UNKNOWN, _INSERT, _REFUSED = 0, len(SYMBOLS), 254, 255


def read_alignment(path: Path, sequence_identity: float | None) -> Raw:
    """Read the focus columns of an alignment, as classes of `SYMBOLS`.

    Upper-case letters and "-" are match columns; lower-case letters and "." are insertions, which are left
    out. Focus columns are the match columns in which the first sequence, the query, has a residue.
    X, an unknown residue, is a missing value.

    `weight[i] = 1 / #{j: identity(i, j) >= sequence_identity}`, where j includes i: near copies share the
    weight of one sequence. Clusters of near copies are held out as a whole, so no two neighbours lie in
    different splits, and the weights of the training sequences do not depend on the others.

    Raises:
        InputError: there is no such file, or it is no alignment; the message names the sequence.

    Source: Ekeberg et al. (2013), "Improved contact prediction in proteins: using pseudolikelihoods
    to infer Potts models", for the weights; Hopf et al. (2017), "Mutation effects predicted from
    sequence co-variation", for the focus columns.
    Departs from the sources: held-out sequences are split by cluster, and columns with many gaps
    and fragments are kept.
    """
    sequence_identity = _share(sequence_identity)
    names, codes = _matched(_sequences(path), path)
    focus = codes[0] != _GAP
    if not focus.any():
        raise InputError(
            f"{path}: the first sequence {names[0]!r} has no upper-case residue, so there are no focus "
            "columns; write match columns in upper case"
        )
    codes = codes[:, focus]
    observed = codes != _UNKNOWN
    arrays: dict[str, np.ndarray] = {"x": np.where(observed, codes, 0).astype(np.uint8)}
    notes = [f"{len(codes):,} sequences, {codes.shape[1]:,} focus columns of {len(focus):,}"]
    if not observed.all():
        arrays["mask"] = observed.astype(np.uint8)
        notes.append("X is missing")
    groups = None
    if sequence_identity is not None and sequence_identity < 1:
        near = similarity(arrays["x"], observed, len(SYMBOLS), sequence_identity)
        groups = near.cluster
        arrays["weight"] = (1 / near.neighbours).astype(np.float32)
        notes.append(
            f"weights by >= {sequence_identity:.0%} identity, effective number "
            f"{(1 / near.neighbours).sum():,.1f}, {groups.max() + 1:,} clusters kept whole"
        )
    else:
        notes.append("no weights: near copies may lie on both sides of the split")
    return Raw(
        name=path.stem,
        where=str(path),
        origin=str(path),
        splits={"all": arrays},
        kind="category",
        num_categories=len(SYMBOLS),
        groups=groups,
        notes=tuple(notes),
    )


def _share(identity: Any) -> float | None:
    if identity is None:
        return None
    share = ", a share of the columns, or None for no weights"
    return known_number("sequence_identity", identity, above=0, at_most=1, or_else=share)


def _sequences(path: Path) -> list[tuple[str, str]]:
    """Read the names and letters of a FASTA file, in order."""
    if not path.is_file():
        raise InputError(f"no such file: {path}")
    try:
        lines = path.read_bytes().decode("ascii").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: cannot be read as FASTA text ({one_line(error)}); save it as plain text"
        ) from error
    found: list[tuple[str, list[str]]] = []
    for number, line in enumerate(map(str.strip, lines), start=1):
        if line.startswith(">"):
            words = line[1:].split()
            found.append((words[0] if words else f"of line {number}", []))
        elif found:
            found[-1][1].append(line)
        elif line:
            raise InputError(
                f"{path}: line {number}: expected a header that begins with '>', got {line[:20]!r}; "
                "save the alignment as FASTA"
            )
    if not found:
        raise InputError(f"{path}: expected sequences, got none; the file is empty")
    return [(name, "".join(parts)) for name, parts in found]


def _matched(sequences: list[tuple[str, str]], path: Path) -> tuple[list[str], np.ndarray]:
    """Return the names, and the codes of the match columns [N, L]."""
    table = _table()
    rows, names = [], []
    for name, letters in sequences:
        codes = table[np.frombuffer(letters.encode("ascii"), np.uint8)]
        if (codes == _REFUSED).any():
            column = int(np.argmax(codes == _REFUSED))
            raise InputError(
                f"{path}: sequence {name!r}: expected the letters {SYMBOLS[1:]}, X or -, got "
                f"{letters[column]!r} in column {column + 1}; write X for an unknown residue"
            )
        row = codes[codes != _INSERT]
        if not len(row):
            raise InputError(f"{path}: sequence {name!r} has no match column; remove it")
        if rows and len(row) != len(rows[0]):
            raise InputError(
                f"{path}: sequence {name!r}: expected {len(rows[0]):,} match columns (upper case or "
                f"-), as the first sequence has, got {len(row):,}; align the sequences first"
            )
        rows.append(row)
        names.append(name)
    return names, np.stack(rows)


def _table() -> np.ndarray:
    """Return the code of every byte: a class, unknown, an insertion, or refused."""
    table = np.full(256, _REFUSED, np.uint8)
    table[ord("a") : ord("z") + 1] = table[ord(".")] = _INSERT
    table[ord("X")] = _UNKNOWN
    table[np.frombuffer(SYMBOLS.encode(), np.uint8)] = np.arange(len(SYMBOLS))
    return table
