"""Reports: one self-contained HTML page from results and attempts."""

from rationalize.report.page import write_report

__all__ = ["write_report"]
