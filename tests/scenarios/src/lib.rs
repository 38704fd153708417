//! Whole-system scenarios: real daemons, real services, real namespaces.
