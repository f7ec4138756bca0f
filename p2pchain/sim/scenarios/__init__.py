"""What happens to a simulated network: storms, twins, and stories with a name."""
