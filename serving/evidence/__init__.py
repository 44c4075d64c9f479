"""Sequential statistics: what two arms of users show, however often one looks. docs/statistics.md says it in words."""
