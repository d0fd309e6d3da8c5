"""Write one self-contained HTML file from a finished study."""

from unpact_lens.report.write_report import write_report

__all__ = ["write_report"]
