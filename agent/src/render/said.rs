//! What a program that renders says about its failure: cut to the error, and told apart.
//!
//! Used by [`super`]. A program's words are not to be trusted; they are bounded and hold no path of ours.

use std::path::Path;

use deploy::ports::RenderError;

use crate::child::ChildError;
use crate::child::Ended;

/// Characters that are told.
const TOLD: usize = 2_000;

/// Takes what a program printed, or tells why there is nothing.
pub(super) fn output(
    program: &'static str,
    ended: Result<Ended, ChildError>,
    place: &Path,
) -> Result<Vec<u8>, RenderError> {
    match ended {
        Ok(ended) if ended.status.success() => Ok(ended.out),
        Ok(ended) => Err(refusal(program, told(&ended.words, place))),
        Err(ChildError::Broken(error)) => Err(RenderError::Broken {
            program,
            reason: error.to_string(),
        }),
        Err(ChildError::Late { seconds }) => Err(RenderError::Late { program, seconds }),
        Err(ChildError::TooMuch { limit }) => Err(RenderError::TooMuch { program, limit }),
    }
}

/// Cuts out what a program says about its failure: from the last line that begins with "Error" or
/// "error".
fn told(words: &str, place: &Path) -> String {
    let words = words.replace(&format!("{}/", place.display()), "");
    let starts = |line: &str| line.starts_with("Error") || line.starts_with("error");
    let lines: Vec<&str> = words.lines().collect();
    let first = lines.iter().rposition(|line| starts(line)).unwrap_or(0);
    let said = lines[first..].join("\n");
    let said = said.trim();
    let said = said
        .strip_prefix("Error: ")
        .or_else(|| said.strip_prefix("error: "))
        .unwrap_or(said);
    if said.is_empty() {
        return "nothing".to_owned();
    }
    said.chars().take(TOLD).collect()
}

/// Tells a server that is away from everything else.
fn refusal(program: &'static str, said: String) -> RenderError {
    // Helm asks for the server's version before it does anything.
    if said.contains("Kubernetes cluster unreachable") || said.contains("cluster unreachable") {
        RenderError::Unavailable { program, said }
    } else {
        RenderError::Refused { program, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_says_is_cut_to_the_error() {
        let words = "level=WARN msg=x\nWARNING: y\nError: UPGRADE FAILED: /run/q/bundle/a\nmore\n";
        let said = told(words, Path::new("/run/q"));
        assert_eq!(said, "UPGRADE FAILED: bundle/a\nmore");
        assert_eq!(told("", Path::new("/x")), "nothing");
        assert_eq!(told(&"x".repeat(5_000), Path::new("/x")).len(), TOLD);
    }
}
