"""Studies: models x methods x benchmarks x seeds, with results on disk that a second run picks up."""

from unpact_lens.study.config import StudyConfig, load_config
from unpact_lens.study.destruction import destruction_over_seeds
from unpact_lens.study.dilemma import Dilemma, dilemma, dilemma_by_kind, distance_gaps, kinds_table
from unpact_lens.study.experiment import Experiment, load_experiment, tuned_settings
from unpact_lens.study.focus import FocusShift, focus_shift
from unpact_lens.study.focus_run import FocusStudy, focus_study
from unpact_lens.study.focus_seeds import FOCUS_TABLES, changed_heads, focus_over_seeds, focus_table, heads_table
from unpact_lens.study.result import Cell, Study
from unpact_lens.study.run import run_study
from unpact_lens.study.seeds import by_probe, estimates, probes_over_seeds, wide
from unpact_lens.study.sensitivity import CHOICES, Choice, Conclusions, conclusions, sensitivity_study
from unpact_lens.study.survival import survival, survival_table
from unpact_lens.study.token_gradients import token_gradients

__all__ = [
    "CHOICES",
    "FOCUS_TABLES",
    "Cell",
    "Choice",
    "Conclusions",
    "Dilemma",
    "Experiment",
    "FocusShift",
    "FocusStudy",
    "Study",
    "StudyConfig",
    "by_probe",
    "changed_heads",
    "conclusions",
    "destruction_over_seeds",
    "dilemma",
    "dilemma_by_kind",
    "distance_gaps",
    "estimates",
    "focus_over_seeds",
    "focus_shift",
    "focus_study",
    "focus_table",
    "heads_table",
    "kinds_table",
    "load_config",
    "load_experiment",
    "probes_over_seeds",
    "run_study",
    "sensitivity_study",
    "survival",
    "survival_table",
    "token_gradients",
    "tuned_settings",
    "wide",
]
