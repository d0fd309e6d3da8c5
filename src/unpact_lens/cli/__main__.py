"""Run `unpact` by `python -m unpact_lens.cli`."""

from unpact_lens.cli import main

main()
