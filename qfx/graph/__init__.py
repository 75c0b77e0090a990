"""The graph: what is known of its nodes, and the analyses over them."""
