"""Audit models that others unlearned: verdict, report, model card and gate."""

from unpact_lens.auditing.audit import AuditOptions, audit
from unpact_lens.auditing.budget import BUDGETS, Budget
from unpact_lens.auditing.compare_audits import AuditComparison, compare_audits
from unpact_lens.auditing.fact_table import FactTable, read_facts
from unpact_lens.auditing.given_model import Origin
from unpact_lens.auditing.record import AuditRecord, record_schema
from unpact_lens.auditing.require import Condition, read_requirements, unmet
from unpact_lens.auditing.result import Audit
from unpact_lens.auditing.verify import Verification, verify_audit

__all__ = [
    "BUDGETS",
    "Audit",
    "AuditComparison",
    "AuditOptions",
    "AuditRecord",
    "Budget",
    "Condition",
    "FactTable",
    "Origin",
    "Verification",
    "audit",
    "compare_audits",
    "read_facts",
    "read_requirements",
    "record_schema",
    "unmet",
    "verify_audit",
]
