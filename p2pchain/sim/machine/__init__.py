"""The parts of one simulated machine: its disk, its desks, what it asks and answers."""
