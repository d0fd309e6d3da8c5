"""Studies: models x methods x benchmarks x seeds, with results on disk that a second run picks up."""

from unpact_lens.study.config import StudyConfig, load_config
from unpact_lens.study.destruction import destruction_over_seeds
from unpact_lens.study.experiment import Experiment, load_experiment
from unpact_lens.study.result import Cell, Study
from unpact_lens.study.run import run_study
from unpact_lens.study.seeds import probes_over_seeds, wide
from unpact_lens.study.token_gradients import token_gradients

__all__ = [
    "Cell",
    "Experiment",
    "Study",
    "StudyConfig",
    "destruction_over_seeds",
    "load_config",
    "load_experiment",
    "probes_over_seeds",
    "run_study",
    "token_gradients",
    "wide",
]
