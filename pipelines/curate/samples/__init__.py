"""Ten documents of each reason for the report, with the offending part marked; chosen by ids alone."""
