//! All scenarios and repository checks, one module a subject.

mod tidy;
