//! Tests of the causes.
