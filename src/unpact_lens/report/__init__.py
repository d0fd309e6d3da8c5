"""One self-contained HTML file from a finished study."""

from unpact_lens.report.blocks import fill_block, read_block
from unpact_lens.report.write import write_report

__all__ = ["fill_block", "read_block", "write_report"]
