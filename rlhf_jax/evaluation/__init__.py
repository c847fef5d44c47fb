"""How good the summaries are: preference, ROUGE, copying, length control, and the page that shows a run."""
