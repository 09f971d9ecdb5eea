//! Keeps the last good version of every object.
