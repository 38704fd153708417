//! Causeway's origin: the unprivileged peer that re-originates flows to local services.
