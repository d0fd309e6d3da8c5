"""Compute intervals, tests and bootstraps: `Estimate` is the type of every number with an interval."""

from unpact_lens.stats.bootstrap import (
    clustered_mean,
    clustered_means,
    clustered_ratios,
    mean_interval,
    paired_difference,
    quantiles,
    resampled_means,
)
from unpact_lens.stats.estimate import Contrast, Difference, Estimate, MeanRate, PlainEstimate, Rate, lost
from unpact_lens.stats.intervals import newcombe, paired_score_interval, wilson
from unpact_lens.stats.ks import KSTest, ks_test
from unpact_lens.stats.tests import holm, mcnemar

__all__ = [
    "Contrast",
    "Difference",
    "Estimate",
    "KSTest",
    "MeanRate",
    "PlainEstimate",
    "Rate",
    "clustered_mean",
    "clustered_means",
    "clustered_ratios",
    "holm",
    "ks_test",
    "lost",
    "mcnemar",
    "mean_interval",
    "newcombe",
    "paired_difference",
    "paired_score_interval",
    "quantiles",
    "resampled_means",
    "wilson",
]
