"""Values and rules that everything else is made of: no clock, no I/O."""
