"""For a document that a rule dropped: which part of its text the rule counted, and what it counted, in words."""
