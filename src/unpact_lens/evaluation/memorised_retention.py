"""Compute memorised retention: how much more a model lost of unseen retain facts than of those it was trained on."""

from __future__ import annotations

from unpact_lens.stats.estimate import Estimate, PlainEstimate
from unpact_lens.stats.intervals import NAN, newcombe


def memorised_retention(unseen: Estimate, trained: Estimate) -> PlainEstimate:
    r"""Compute $D_\mathrm{unseen} - D_\mathrm{trained}$ with its interval.

    A retain term can keep exactly the facts that it rehearses. Destruction on those facts is then small and says
    nothing about all other facts. The two parts are about different subjects, so the interval combines the variances of
    the two (MOVER). It has no zero width if nothing was lost, as a bootstrap would have. With several seeds, both parts
    share them; the interval ignores this and is then too wide rather than too narrow.

    Args:
        unseen: Destruction on facts that neither training nor a search of hyperparameters saw.
        trained: Destruction on facts that the retain term trained on.

    Returns:
        The difference; above 0 if retention is memorised. Undefined if one of the two is.

    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10; Zou & Donner 2008, 27:1693.

    >>> from unpact_lens.stats.estimate import Rate
    >>> str(memorised_retention(Rate(70, 100), Rate(0, 100)))
    '0.70 [0.60, 0.78]'
    """
    if not unseen.n or not trained.n:
        return PlainEstimate(NAN, NAN, NAN, 0)
    low, high = newcombe(unseen.value, unseen.interval(unseen.n), trained.value, trained.interval(trained.n))
    return PlainEstimate(unseen.value - trained.value, low, high, unseen.n, unseen.level)
