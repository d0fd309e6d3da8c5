"""Define the command line `unpact …`: one short command for each public function.

Results are printed on stdout, progress, notes and errors on stderr. A result is saved before it is printed.

Exit status: 0 success, 2 wrong input or environment, 1 internal error, 3 some cells of a study failed, 130 interrupted,
143 terminated, 141 stdout was closed by its reader.
"""

from unpact_lens.cli import audit, explain, explore, lists, measure, models, studies, train
from unpact_lens.cli.app import app
from unpact_lens.cli.main import main

__all__ = ["app", "audit", "explain", "explore", "lists", "main", "measure", "models", "studies", "train"]
