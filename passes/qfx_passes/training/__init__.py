"""The graph that trains, and the graph that it means."""
