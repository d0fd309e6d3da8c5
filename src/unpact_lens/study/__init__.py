"""Run studies over methods and seeds. Results are kept on disk, and a second run loads what is finished."""

from unpact_lens.boundary import guard_all
from unpact_lens.study.config import StudyConfig, config_schema, load_config
from unpact_lens.study.dilemma import Dilemma, dilemma, dilemma_by_kind, distance_gaps, kinds_table
from unpact_lens.study.overview import clean_study, planned, study_status
from unpact_lens.study.pooled import by_probe, estimates, probes_over_seeds, wide
from unpact_lens.study.result import Cell, Study
from unpact_lens.study.run_study import run_study

__all__ = [
    "Cell",
    "Dilemma",
    "Study",
    "StudyConfig",
    "by_probe",
    "clean_study",
    "config_schema",
    "dilemma",
    "dilemma_by_kind",
    "distance_gaps",
    "estimates",
    "kinds_table",
    "load_config",
    "planned",
    "probes_over_seeds",
    "run_study",
    "study_status",
    "wide",
]

guard_all(globals(), __all__)
