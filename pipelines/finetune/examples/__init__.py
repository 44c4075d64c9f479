"""Examples to learn from: rows of any common form, read from anywhere, as tokens of which some carry loss.

``config`` (light) says where rows come from; ``read`` gives records (``records``) in the forms that ``rows`` knows;
``divide`` chooses and splits them; ``template`` and ``encode`` make tokens; ``samples`` makes batches.
"""
