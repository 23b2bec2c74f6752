"""Name the panels, for those who must not import widgets."""

PANELS = ("model", "plan", "quantize", "compare", "convert", "publish")
