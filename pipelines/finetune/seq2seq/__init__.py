"""Encoder-decoder models: from a source to a target, such as a summary or a translation.

``model`` says which models these are and how a target begins and ends; ``encode`` makes tokens and batches; ``export``
writes and proves; ``task`` and ``stage`` put them together. The loss is the loop's own, over the target's tokens.
"""
