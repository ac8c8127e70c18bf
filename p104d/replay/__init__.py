"""A queue played in virtual time: what a policy makes of a trace, beside plain policies and a bound nobody beats."""
