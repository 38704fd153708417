//! Configuration, validation and plans of Causeway's daemons, with no I/O.
