"""What the nodes of a site compute: masks and polynomials, recovered from the graph."""
