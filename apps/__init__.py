"""The command line `nf`: the only room with arguments, printing and progress bars."""
