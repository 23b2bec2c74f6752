"""What a page may be asked for; core widgets need nothing of it."""


def enable_custom_widget_manager() -> None:
    """Refuse: under it, Colab shows no tabs."""
    raise AssertionError("the panels use ipywidgets' own widgets alone")
