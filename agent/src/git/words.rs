//! What git says about its failures, told apart.
//!
//! Used by [`super`]. Its words are the server's in part: they are cut, never trusted, and passed on only
//! as something that was said. The texts are those of git 2.30 and later in the locale C.

use deploy::ports::GitError;

/// Characters that are told.
const TOLD: usize = 500;

/// Texts that mean that the credential is not taken.
const DENIED: &[&str] = &[
    "Authentication failed",
    "could not read Username",
    "could not read Password",
    "terminal prompts disabled",
    "Permission denied (",
    "The requested URL returned error: 401",
    "The requested URL returned error: 403",
    "HTTP Basic: Access denied",
];
/// Texts that mean that there is no such thing.
const NOT_FOUND: &[&str] = &[
    "couldn't find remote ref",
    "Repository not found",
    "does not appear to be a git repository",
    "The project you were looking for could not be found",
    "The requested URL returned error: 404",
];

/// Cuts words to what is worth telling: without hints and progress.
pub(super) fn cut(words: &str) -> String {
    let lines = words
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("hint:"));
    let text = lines.collect::<Vec<_>>().join("; ");
    let text: String = text
        .chars()
        .filter(|c| !c.is_control())
        .take(TOLD)
        .collect();
    if text.is_empty() {
        "nothing".to_owned()
    } else {
        text
    }
}

fn has(words: &str, texts: &[&str]) -> bool {
    texts.iter().any(|text| words.contains(text))
}

/// Tells why a fetch failed.
pub(super) fn of_fetch(words: &str) -> GitError {
    if has(words, DENIED) {
        return GitError::Denied;
    }
    // Git says it in lower case, with the address between the words.
    let no_repository = words.contains("fatal: repository '") && words.contains("' not found");
    if no_repository || has(words, NOT_FOUND) {
        return GitError::NotFound;
    }
    GitError::Unreachable { said: cut(words) }
}

/// Tells why a push failed: by its lines for programs, else as a fetch.
pub(super) fn of_push(out: &[u8], words: &str) -> GitError {
    let out = String::from_utf8_lossy(out);
    let rejected = out.lines().find(|line| line.starts_with('!'));
    let Some(rejected) = rejected else {
        return of_fetch(words);
    };
    // `[rejected] (fetch first)`, `(non-fast-forward)`, `(stale info)`: git's own look; `[remote
    // rejected]` with a lock: two pushes met on the server.
    let moved = ["(fetch first)", "(non-fast-forward)", "(stale info)"];
    let met = [
        "cannot lock ref",
        "failed to update ref",
        "incorrect old value provided",
    ];
    if has(rejected, &moved) || has(rejected, &met) {
        return GitError::Moved;
    }
    let remote: Vec<&str> = words
        .lines()
        .filter_map(|line| line.trim().strip_prefix("remote:"))
        .collect();
    let said = if remote.is_empty() {
        let reason = rejected.rsplit('\t').next().unwrap_or(rejected);
        cut(reason)
    } else {
        cut(&remote.join("\n"))
    };
    GitError::Refused { said }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_of_a_fetch_are_told_apart() {
        let denied = "fatal: could not read Username for 'https://git.example.com': terminal prompts disabled\n";
        assert_eq!(of_fetch(denied), GitError::Denied);
        let ssh = "git@git.example.com: Permission denied (publickey).\r\nfatal: Could not read from remote repository.\n";
        assert_eq!(of_fetch(ssh), GitError::Denied);
        let gone = "fatal: repository 'https://git.example.com/x.git/' not found\n";
        assert_eq!(of_fetch(gone), GitError::NotFound);
        let branch = "fatal: couldn't find remote ref refs/heads/x\n";
        assert_eq!(of_fetch(branch), GitError::NotFound);
        let away = "fatal: unable to access 'https://x/': Failed to connect to x port 443: Connection refused\n";
        assert!(matches!(of_fetch(away), GitError::Unreachable { .. }));
    }

    #[test]
    fn failures_of_a_push_are_told_apart() {
        let moved = b"To https://x/\n!\tabc:refs/heads/main\t[rejected] (fetch first)\nDone\n";
        assert_eq!(
            of_push(moved, "error: failed to push some refs\n"),
            GitError::Moved
        );
        let met = b"!\tabc:refs/heads/main\t[remote rejected] (cannot lock ref 'refs/heads/main': is at a but expected b)\n";
        assert_eq!(of_push(met, ""), GitError::Moved);
        let hook = b"!\tabc:refs/heads/main\t[remote rejected] (pre-receive hook declined)\n";
        let words = "remote: GitLab: You are not allowed to push code to protected branches on this project.        \nerror: failed to push some refs to 'x'\nhint: y\n";
        assert_eq!(
            of_push(hook, words),
            GitError::Refused {
                said: "GitLab: You are not allowed to push code to protected branches on this project.".to_owned()
            }
        );
        assert_eq!(
            of_push(hook, ""),
            GitError::Refused {
                said: "[remote rejected] (pre-receive hook declined)".to_owned()
            }
        );
        assert_eq!(
            of_push(b"", "fatal: Authentication failed for 'x'"),
            GitError::Denied
        );
    }

    #[test]
    fn words_are_cut_and_hold_no_control_characters() {
        assert_eq!(cut("hint: x\n\x1b[31ma\n b \n"), "[31ma; b");
        assert_eq!(cut(&"y".repeat(900)).len(), TOLD);
    }
}
