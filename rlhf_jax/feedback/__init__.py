"""People and their preferences: the labelling site, agreement, the sample viewer."""
