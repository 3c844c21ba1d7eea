"""Results and attempts in, one self-contained page out."""

from rationalize.report.page import write_report

__all__ = ["write_report"]
