"""Reporting: the self-contained HTML page of a run (`page`) and the JupyterLab scrubber (`scrubber`)."""

from interp.reporting.page import render, report

__all__ = ["render", "report"]
