"""How fast and how large, beside others: run.py compares with peers, growth.py shows how cost grows."""
