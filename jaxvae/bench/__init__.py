"""Benchmarks of training and evaluation on this machine, against their matrix products alone and other libraries."""

from jaxvae.bench.compare import compare_records
from jaxvae.bench.deadline import Deadline
from jaxvae.bench.devices import over_devices, ways_on_one_device
from jaxvae.bench.lines import fit_line, scaling
from jaxvae.bench.products import Product, flop_of, products_of
from jaxvae.bench.records import machine, read_record, require_same_machine
from jaxvae.bench.rounds import measure
from jaxvae.bench.start_up import start_up
from jaxvae.bench.together import seeds
from jaxvae.bench.workloads import WORKLOADS

__all__ = [
    "WORKLOADS",
    "Deadline",
    "Product",
    "compare_records",
    "fit_line",
    "flop_of",
    "machine",
    "measure",
    "over_devices",
    "products_of",
    "read_record",
    "require_same_machine",
    "scaling",
    "seeds",
    "start_up",
    "ways_on_one_device",
]
