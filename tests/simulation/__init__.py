"""The simulation: the whole path on a virtual clock, over engines that fail as a seed says."""
