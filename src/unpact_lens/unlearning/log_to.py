"""Log the checks of a run to trackio, wandb or TensorBoard."""

from __future__ import annotations

from unpact_lens.errors import InputError
from unpact_lens.unlearning.check import Check, OnCheck


def log_to(run: object) -> OnCheck:
    """Return a function for `unlearn(on_check=…)` that logs each check.

    It logs F, the retain score, the terms of the loss, the gradient norm and the learning rate at the check's step. The
    caller opens and closes the run.

    Args:
        run: `wandb.init(…)` or `trackio.init(…)`, whose `log(numbers, step=…)` is called, or a TensorBoard
            `SummaryWriter(…)`, whose `add_scalar(name, number, step)` is called.

    Raises:
        InputError: If it has neither function.

    Examples:
        >>> class Run:
        ...     def log(self, numbers, step):
        ...         print(step, numbers)
        >>> log_to(Run())(Check(5, 60, None, 0.25, None, {"loss": 1.5}))
        5 {'loss': 1.5, 'F': 0.25}
    """
    add_scalar, log = getattr(run, "add_scalar", None), getattr(run, "log", None)
    if callable(add_scalar):

        def write(check: Check) -> None:
            for name, number in check.numbers().items():
                add_scalar(name, number, check.step)

    elif callable(log):

        def write(check: Check) -> None:
            log(check.numbers(), step=check.step)

    else:
        raise InputError(
            f"a {type(run).__name__} has neither log() nor add_scalar(); give wandb.init(…), trackio.init(…) or a "
            "TensorBoard SummaryWriter(…)"
        )
    return write
