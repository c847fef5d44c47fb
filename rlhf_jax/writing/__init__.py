"""Using what was trained: a policy that answers files, people in a terminal, and programs over HTTP."""
