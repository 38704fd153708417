//! The thin companion that manages each site's Docker Compose stacks.
