"""Numbers that every verb gave once, frozen: a change that means no change of numbers keeps them."""
