"""Write one self-contained HTML file from a finished study."""

from unpact_lens.boundary import guard_all
from unpact_lens.report.write_report import write_report

__all__ = ["write_report"]

guard_all(globals(), __all__)
