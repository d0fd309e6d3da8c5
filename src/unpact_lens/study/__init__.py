"""Studies: models x methods x benchmarks x seeds, with results on disk that a second run picks up."""

from unpact_lens.study.config import StudyConfig, load_config
from unpact_lens.study.result import Cell, Study
from unpact_lens.study.run import run_study

__all__ = ["Cell", "Study", "StudyConfig", "load_config", "run_study"]
