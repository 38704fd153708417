//! Network namespaces, processes and captures for scenarios that cross a network.
