"""What is done, in the order of the paper: each module a stage, or a part of one."""
