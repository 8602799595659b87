"""The explorable's figures (`src/`), bundled for the page, for notebooks and for the explorer."""
