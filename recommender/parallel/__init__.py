"""Work cut into tasks that run anywhere, with the same results: in this process, in others, on a cluster."""
