//! The table that is printed: a figure in words, the one beside us, ours, and what we aim at.
//!
//! Rows are printed when they are known, so that a run that is broken off has told what it saw. Invariant:
//! nothing is judged here; whoever reads compares.

/// Prints the head.
pub(crate) fn head() {
    row("figure", "`bao agent`", "ours", "our goal");
}

/// Prints a row.
pub(crate) fn row(figure: &str, beside: &str, ours: &str, goal: &str) {
    println!("| {figure:<58} | {beside:>22} | {ours:>24} | {goal:<14} |");
}
