"""Filters that users write, named as ``module:function``."""
