"""Time: the tree of epochs, the views onto it, the versioned keyspace, what differs between two views."""
