"""What can be compared? A module for each kind of case: its sizes, its work, what rounding may do.

Standard library only. Each module has NAME, PASSES, GRID and QUICK_GRID (values of each axis),
cases(axes, passes), NOTES for the report, and PLOT, or None, for bench/peers/plot.gp.
"""

from kinds import attention, encoder, layer, linear, training_step

KINDS = {kind.NAME: kind for kind in (attention, linear, layer, encoder, training_step)}
