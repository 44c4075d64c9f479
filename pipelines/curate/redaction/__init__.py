"""Recognisers of personal data and secrets, one module a family of patterns; pipelines.curate.redact joins them."""
