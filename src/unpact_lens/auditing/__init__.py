"""Audit models that others unlearned: verdict, report, model card and gate."""

from unpact_lens.auditing.audit import AuditOptions, audit
from unpact_lens.auditing.budget import BUDGETS, Budget
from unpact_lens.auditing.fact_table import FactTable, read_facts
from unpact_lens.auditing.given_model import Origin
from unpact_lens.auditing.result import Audit

__all__ = ["BUDGETS", "Audit", "AuditOptions", "Budget", "FactTable", "Origin", "audit", "read_facts"]
