"""The paper's findings, measured again: each module a command, whose figures a work folder keeps as JSON."""
