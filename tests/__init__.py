"""Test unpact-lens. The run-time type checker is looked up as an attribute of this package."""

from tests import type_checker  # noqa: F401
