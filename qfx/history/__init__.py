"""What passes did to a graph: snapshots, differences, drawings, and where a node comes from."""
