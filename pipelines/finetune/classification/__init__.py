"""Sequence classification: a head on a pretrained model that names a text's label.

``labels`` gives names numbers and weights; ``load`` reads and divides the rows; ``encode`` makes tokens and batches;
``model`` puts the head on; ``objective`` is the loss; ``scores`` says how good it is; ``export`` writes and proves it;
``task`` and ``stage`` (with ``report``) put them together.
"""
