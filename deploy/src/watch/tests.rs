//! Tests of the watch loop.
