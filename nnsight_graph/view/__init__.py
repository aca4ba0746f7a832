"""Pictures of what was measured, for browsers, notebooks and terminals.

In: plain numbers and labels. Out: SVG, or text with or without colours, as a string.

The trick: nothing is measured with fonts. Text widths are estimated once, generously, and the layout follows from them.
"""

from .heatmap import heatmap_svg
from .terminal import heatmap_text, wants_colour

__all__ = ["heatmap_svg", "heatmap_text", "wants_colour"]
