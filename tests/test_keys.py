"""Keys of examples and of named streams, against folds made one by one."""

import ast
from enum import IntEnum, unique
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxvae
from jaxvae import keys

LARGEST_INT32 = 2**31 - 1
"""The last step or index that a counter on the device can hold."""


def bits(key):
    return np.asarray(jax.random.key_data(key))


def check_example_keys(function):
    key, index = jax.random.key(3), jnp.array([5, 0, LARGEST_INT32])
    got = bits(function(key, 7, index))
    for row, i in zip(got, index, strict=True):
        np.testing.assert_array_equal(row, bits(jax.random.fold_in(jax.random.fold_in(key, 7), i)))


def test_key_of_an_example_is_folded_from_step_and_index():
    check_example_keys(keys.example_keys)


@pytest.mark.parametrize(
    "twin",
    [
        lambda key, step, index: jax.random.split(jax.random.fold_in(key, step), len(index)),
        lambda key, step, index: keys.example_keys(key, step, jnp.arange(len(index))),
        lambda key, step, index: keys.fold_each(key, index),
    ],
    ids=["split", "local index", "without step"],
)
def test_check_of_keys_rejects(twin):
    with pytest.raises(AssertionError):
        check_example_keys(twin)


def check_fold_each(function):
    key, index = jax.random.key(3), np.array([5, 0, LARGEST_INT32], np.int32)
    for row, i in zip(bits(function(key, jnp.asarray(index))), index, strict=True):
        np.testing.assert_array_equal(row, bits(jax.random.fold_in(key, i)))


def test_keys_of_indices_are_folded_one_by_one():
    check_fold_each(keys.fold_each)
    for twin in (
        lambda key, index: keys.fold_each(key, jnp.arange(len(index))),
        lambda key, index: jax.random.split(key, len(index)),
    ):
        with pytest.raises(AssertionError):
            check_fold_each(twin)


# Named streams.


def owners():
    """The enumerations of streams in the table."""
    values = vars(keys).values()
    return [
        v for v in values if isinstance(v, type) and issubclass(v, IntEnum) and v is not IntEnum
    ]


def check_streams(owner, stream_key):
    """No two streams of one key meet, nor the steps, examples and samples that count up from 0."""
    key = jax.random.key(3)
    counted = bits(keys.fold_each(key, jnp.array([*range(10_000), LARGEST_INT32])))
    named = [bits(stream_key(key, stream)) for stream in owner]
    rows = [row.tobytes() for row in (*counted, *named)]
    assert len(set(rows)) == len(rows)


@pytest.mark.parametrize("owner", owners(), ids=lambda owner: owner.__name__)
def test_no_two_streams_meet(owner):
    check_streams(owner, keys.stream_key)


def test_check_of_streams_rejects():
    with pytest.raises(AssertionError):  # streams that count up, as steps do
        check_streams(keys.OfRun, jax.random.fold_in)
    with pytest.raises(AssertionError):
        check_streams(keys.OfRun, lambda key, stream: keys.stream_key(key, keys.OfRun.ORDER))
    with pytest.raises(ValueError, match="duplicate"):
        unique(IntEnum("Twice", {"PRIOR": 0, "LABELS": 0}))
    assert all(name.__members__.keys() == {s.name for s in name} for name in owners())  # no aliases


def test_losses_that_are_added_one_to_another_end_before_the_next_stream():
    added = range(keys.OfExample.ENCODER_LOSS, keys.OfExample.LABELLED_ROW)
    assert len(added) == 32
    assert [s for s in keys.OfExample if s in added] == [keys.OfExample.ENCODER_LOSS]


def check_stream_key(function):
    """From the largest 32-bit number down, beyond every step."""
    key = jax.random.key(3)
    for stream, number in ((keys.OfRun.ORDER, 0), (keys.OfExample.ENCODER_LOSS, 3)):
        exact = jax.random.fold_in(key, np.uint32(2**32 - 1 - stream - number))
        np.testing.assert_array_equal(bits(function(key, stream, number)), bits(exact))


def test_streams_count_down_from_the_largest_number():
    check_stream_key(keys.stream_key)
    with pytest.raises(AssertionError):
        check_stream_key(lambda key, stream, number: jax.random.fold_in(key, stream + number))


def unnamed(tree):
    """Calls of `stream_key` whose stream is not of the table, and hidden keys."""
    known = {owner.__name__ for owner in owners()}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func, node.args:
            case ((ast.Name(id="stream_key") | ast.Attribute(attr="stream_key")), [_, stream, *_]):
                match stream:
                    case ast.Attribute(value=ast.Name(id=owner)) if owner in known:
                        continue
                yield ast.unparse(node)


def test_every_stream_is_of_the_table():
    sources = Path(jaxvae.__file__).parent.rglob("*.py")
    found = {path.name: list(unnamed(ast.parse(path.read_text()))) for path in sources}
    assert not {name: calls for name, calls in found.items() if calls}
    assert list(unnamed(ast.parse("k = stream_key(key, 0)"))) == ["stream_key(key, 0)"]
    assert list(unnamed(ast.parse("k = keys.stream_key(key, _STREAM + 1)")))
