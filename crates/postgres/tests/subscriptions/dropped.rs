//! Tables that are dropped while they are watched.
