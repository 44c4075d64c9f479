"""Stage ``align``: teach a model what people prefer, by a reward model, from pairs (DPO, SimPO) or rewards (GRPO, PPO).

``config`` and ``guard`` are light; ``stage`` joins data, training, report. For pairs: ``encoding``, ``pairs``,
``preference_objectives``. For answers of the model's own: ``sampling``, ``rewards``, ``advantages``, ``rollouts``,
``actor``; ``generation``, ``answer_writers`` and ``engine`` for what writes them. For both: ``losses``, ``reference``,
``weights``, ``task``.
"""
