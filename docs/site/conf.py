"""Sphinx's settings; `build.py` runs it."""

project = "dgpo"
author = "the dgpo authors"
extensions = ["myst_nb"]
html_theme = "furo"
html_title = "dgpo"
nb_execution_mode = "off"
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath", "colon_fence"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = [
    "docs/results/*/findings.md", "docs/slides/*.md", "tests/**", "dgpo/**", "analysis/**", "**/.ipynb_checkpoints",
]  # fmt: skip
html_theme_options = {"light_css_variables": {"color-brand-primary": "#B34E00", "color-brand-content": "#B34E00"}}
