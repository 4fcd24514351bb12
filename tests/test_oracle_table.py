"""Every public name has an exact test and a twin, or a reason; the page says what the rows say."""

import pytest

from tests.support import oracle_table
from tests.support.oracle_table import Row, offences, public_names, read_rows, table

ROWS = read_rows(oracle_table.ROWS.read_text())
BOUNDS = "test_bounds.py::test_elbo", "test_bounds.py::test_check_of_elbo_rejects"


def test_every_public_name_has_an_oracle():
    assert not offences(public_names(), ROWS)


def test_the_page_is_that_of_the_rows():
    """If not: `python -m tests.support.oracle_table --write`."""
    page = oracle_table.PLACE.search(oracle_table.PAGE.read_text())
    assert page is not None
    assert page[2] == table(ROWS)


def test_a_new_name_is_named():
    names = public_names() | {"bounds": [*public_names()["bounds"], "brand_new"]}
    assert offences(names, ROWS) == ["bounds.brand_new: no row in tests/oracles.toml"]
    names = public_names() | {"brand_new": ["name"]}
    assert offences(names, ROWS) == ["brand_new.name: no row in tests/oracles.toml"]


def test_a_name_that_is_gone_is_named():
    names = public_names() | {"bounds": public_names()["bounds"][1:]}
    assert offences(names, ROWS) == ["bounds.elbo: no such name"]


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        (Row("the mean", *BOUNDS), None),
        (
            Row("the mean", "test_bounds.py::test_gone", BOUNDS[1]),
            "no test test_bounds.py::test_gone",
        ),
        (Row("the mean", "test_gone.py::test_elbo", BOUNDS[1]), "no test test_gone.py::test_elbo"),
        (
            Row("the mean", BOUNDS[0], "test_bounds.py::check_elbo"),
            "no test test_bounds.py::check_elbo",
        ),
        (Row(" ", *BOUNDS), "no oracle"),
        ("", "no reason"),
        (
            Row("the mean", "test_metrics_of_none.py::test_it", BOUNDS[1]),
            "no test test_metrics_of_none.py::test_it",
        ),
        (
            Row("the mean", "test_minutes.py::test_the_table_is_written_into_its_place", BOUNDS[1]),
            "does not use it",
        ),
        (Row("the mean", BOUNDS[0], BOUNDS[0]), "rejects nothing"),
        (
            Row("the mean", BOUNDS[0], "test_coupled.py::test_check_of_mmd2_rejects"),
            "no check in common",
        ),
        # `refused` is for input, not for bugs
        (
            Row("the mean", BOUNDS[0], "test_bounds.py::test_other_shapes_are_refused"),
            "rejects nothing",
        ),
    ],
)
def test_a_row_that_proves_nothing_is_named(cell, said):
    found = offences({"bounds": ["elbo"]}, {"bounds": {"elbo": cell}})
    if said is None:
        assert not found
    else:
        assert any(line.startswith("bounds.elbo: ") and said in line for line in found), found


def test_what_a_class_of_results_computes_is_a_name():
    names = public_names()
    assert "LogLikelihood.monte_carlo_error" in names["evaluation"]
    assert "LogLikelihood.estimate" not in names["evaluation"]
    assert "elbo" in names["objectives"]
    assert "jaxvae" not in names  # all that it exports has a home


def test_the_table_groups_reasons():
    rows = {
        "a": {
            "f": Row("by hand", *BOUNDS),
            "T": "a type",
            "g": Row("x", "t.py::test_f", "u.py::test_g"),
            "U": "a type",
        }
    }
    assert table(rows).splitlines() == [
        "### a",
        "",
        "| name | oracle | test | twin |",
        "|---|---|---|---|",
        "| `f` | by hand | `test_bounds.py::test_elbo` | `test_check_of_elbo_rejects` |",
        "| `g` | x | `t.py::test_f` | `u.py::test_g` |",
        "",
        "No number of its own, a type: `T`, `U`.",
    ]


def test_the_table_is_written_into_its_place(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    monkeypatch.setattr(oracle_table, "PAGE", page)
    page.write_text("before\n<!-- oracles -->\nold\n<!-- end -->\nafter\n")
    oracle_table.main()
    oracle_table.main("--write")
    shown = capsys.readouterr().out.strip()
    assert page.read_text() == f"before\n<!-- oracles -->\n{table(ROWS)}<!-- end -->\nafter\n"
    assert shown == table(ROWS).strip()
    page.write_text("no place")
    with pytest.raises(AssertionError, match="no place"):
        oracle_table.main("--write")
