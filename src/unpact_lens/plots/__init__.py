"""Figures: functions that take a result and return a plotly `Figure`, never shown and never changing the result."""
