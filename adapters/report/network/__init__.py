"""A picture of a network in which every channel group has one colour, and the page around it."""
