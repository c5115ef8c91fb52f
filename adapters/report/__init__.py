"""Self-contained HTML pages that show what happened to a model."""
