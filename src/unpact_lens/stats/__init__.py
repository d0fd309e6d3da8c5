"""Compute intervals, tests and bootstraps: `Estimate` is the type of every number with an interval."""

from unpact_lens.boundary import guard_all
from unpact_lens.stats.bootstrap import (
    clustered_mean,
    clustered_means,
    clustered_ratios,
    mean_interval,
    quantiles,
    resampled_means,
)
from unpact_lens.stats.clusters import design_effect, intraclass_correlation
from unpact_lens.stats.estimate import Contrast, Difference, Estimate, MeanRate, PlainEstimate, Rate, lost
from unpact_lens.stats.intervals import newcombe, paired_score_interval, wilson
from unpact_lens.stats.ks import KSTest, ks_test
from unpact_lens.stats.paired import Outcomes, paired_difference, simultaneous_differences, simultaneous_level
from unpact_lens.stats.sign_flip import max_sign_flip_p, sign_flip_p
from unpact_lens.stats.tests import holm, mcnemar

__all__ = [
    "Contrast",
    "Difference",
    "Estimate",
    "KSTest",
    "MeanRate",
    "Outcomes",
    "PlainEstimate",
    "Rate",
    "clustered_mean",
    "clustered_means",
    "clustered_ratios",
    "design_effect",
    "holm",
    "intraclass_correlation",
    "ks_test",
    "lost",
    "max_sign_flip_p",
    "mcnemar",
    "mean_interval",
    "newcombe",
    "paired_difference",
    "paired_score_interval",
    "quantiles",
    "resampled_means",
    "sign_flip_p",
    "simultaneous_differences",
    "simultaneous_level",
    "wilson",
]

guard_all(globals(), __all__)
