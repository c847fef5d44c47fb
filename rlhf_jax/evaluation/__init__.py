"""How good the summaries are: judges, preference, ROUGE, copying, length control."""
