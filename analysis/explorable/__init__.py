"""The explorable's figures (`src/`), joined for the page and for notebooks, and the explorer in a notebook."""
