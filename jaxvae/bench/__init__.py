"""How fast training and evaluation run on this machine, beside what their products alone would take."""

from jaxvae.bench.compare import compare_records
from jaxvae.bench.lines import fit_line, scaling
from jaxvae.bench.products import Product, flop_of, products_of
from jaxvae.bench.records import machine, read_record, require_same_machine
from jaxvae.bench.rounds import measure
from jaxvae.bench.workloads import WORKLOADS

__all__ = [
    "WORKLOADS",
    "Product",
    "compare_records",
    "fit_line",
    "flop_of",
    "machine",
    "measure",
    "products_of",
    "read_record",
    "require_same_machine",
    "scaling",
]
