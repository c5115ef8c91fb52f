"""What to do to channel groups, as data: recipes, selection, and how plans are made."""
