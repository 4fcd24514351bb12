"""Figures and one page from a run folder: the only place that draws."""

from jaxvae.reports.page import write_report

__all__ = ["write_report"]
