"""From one item to its documents: a module for each form that input comes in."""
