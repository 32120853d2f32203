"""`taskloom demo`: a folder indexed by a flow, on real files, with two worker processes."""

from taskloom.cli.demo.command import command

__all__ = ["command"]
