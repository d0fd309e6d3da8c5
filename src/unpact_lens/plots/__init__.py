"""Make figures: each function takes a result, which it never changes, and returns a plotly `Figure`."""
