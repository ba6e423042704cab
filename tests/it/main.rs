//! All scenarios and repository checks, one module a subject.

#![expect(
    clippy::print_stdout,
    reason = "some scenarios print a row of a table for people who run with --nocapture"
)]

mod causes;
mod client;
mod contract;
mod deploy;
mod faults;
mod leaks;
mod lifecycle;
mod refusals;
mod rollouts;
mod samples;
mod stand;
mod tidy;
mod tokens;
