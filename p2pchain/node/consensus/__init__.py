"""The machine of consensus driven over a network, a log and a clock."""
