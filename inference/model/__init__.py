"""A model of the library, cut into stages that compute exactly what it computes."""
