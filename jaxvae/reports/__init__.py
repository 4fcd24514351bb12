"""Figures and an HTML page from a run folder; the only part that uses matplotlib."""

from jaxvae.reports.page import write_report

__all__ = ["write_report"]
