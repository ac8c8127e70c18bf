"""p104ctl: one file per verb."""
