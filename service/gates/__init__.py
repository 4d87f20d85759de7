"""What the rewrites of a network tell about themselves: quantities, selections, sizes."""
