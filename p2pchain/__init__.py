"""The program: node, interfaces, command line."""
