//! All scenarios and repository checks, one module a subject.

#![expect(
    clippy::print_stdout,
    reason = "some scenarios print a row of a table for people who run with --nocapture"
)]

mod causes;
mod charts;
mod client;
mod conflicts;
mod contract;
mod deploy;
mod desk;
mod disconnects;
mod doctor;
mod ends;
mod expose;
mod faults;
mod feedback;
mod fixed;
mod flux;
mod flux_stand;
mod history;
mod identity;
mod job_images;
mod kills;
mod leaks;
mod leftovers;
mod lifecycle;
mod locks;
mod manifests;
mod matrix;
mod moving;
mod outages;
mod pages;
mod pipelines;
mod plans;
mod platform;
mod promote;
mod reads;
mod refusals;
mod registry;
mod remote_charts;
mod restarts;
mod rollouts;
mod rotation;
mod same_cause;
mod samples;
mod stand;
mod statuses;
mod tidy;
mod tokens;
