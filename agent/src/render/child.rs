//! Runs one child to its end: limits of time and output, its whole process group ended.
//!
//! Used by [`super`]. Nothing of a child outlives the call; a caller that is dropped ends it too. A
//! child that writes to the cluster is asked to end before it is killed, so that Helm can note in
//! its record that it failed.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use deploy::ports::RenderError;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

use super::confine;

/// Bytes of output that are taken.
const OUTPUT: usize = 32 << 20;
/// Bytes of a child's words about errors that are kept.
const WORDS: usize = 64 << 10;
/// Characters of them that are told.
const TOLD: usize = 2_000;
/// How long a child that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How a child is ended that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// At once.
    Kill,
    /// By asking first.
    Ask,
}

/// A child to run.
pub(super) struct Child<'a> {
    pub(super) name: &'static str,
    pub(super) program: &'a Path,
    pub(super) words: Vec<OsString>,
    pub(super) environment: Vec<(&'static str, OsString)>,
    /// What it gets as standard input; unset: nothing.
    pub(super) kubeconfig: Option<File>,
    pub(super) ending: Ending,
    pub(super) time: Duration,
}

/// Kills what is left of a process group.
struct Group(Option<Pid>);

impl Group {
    fn send(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // It may be gone, which is what is wanted.
            let _gone = kill_process_group(group, signal);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.send(Signal::KILL);
    }
}

impl Child<'_> {
    /// Runs the child in a folder and returns what it printed.
    pub(super) async fn run(self, place: &Path) -> Result<Vec<u8>, RenderError> {
        let (name, time, ending) = (self.name, self.time, self.ending);
        let broken = |error: std::io::Error| RenderError::Broken {
            program: name,
            reason: error.to_string(),
        };
        let mut child = self.command(place).spawn().map_err(broken)?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Group(pid.and_then(Pid::from_raw));
        let too_much = RenderError::TooMuch {
            program: name,
            limit: OUTPUT,
        };
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            // Whoever writes too much is not waited for.
            let (out, err) = tokio::try_join!(
                read(stdout, Keep::First(OUTPUT)),
                read(stderr, Keep::Last(WORDS)),
            )?;
            Ok::<_, std::io::Error>((child.wait().await?, out, err))
        };
        tokio::pin!(work);
        // The work is polled again below, or the child is killed with the group: nothing is lost.
        let ended = match tokio::time::timeout(time, &mut work).await {
            Ok(ended) => Some(ended),
            Err(_elapsed) if ending == Ending::Ask => {
                group.send(Signal::TERM);
                let _late = tokio::time::timeout(GRACE, &mut work).await;
                None
            }
            Err(_elapsed) => None,
        };
        let (status, out, err) = match ended {
            None => {
                return Err(RenderError::Late {
                    program: name,
                    seconds: time.as_secs(),
                });
            }
            Some(Err(error)) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                return Err(too_much);
            }
            Some(ended) => ended.map_err(broken)?,
        };
        if status.success() {
            return Ok(out);
        }
        let said = told(&String::from_utf8_lossy(&err), place);
        Err(refusal(name, said))
    }

    fn command(self, place: &Path) -> Command {
        let mut command = Command::new("/proc/self/exe");
        command
            .arg(confine::WORD)
            .arg(std::process::id().to_string())
            .arg(self.program)
            .args(self.words)
            .env_clear()
            .env("HOME", place)
            .env("TMPDIR", place)
            .env("GOMEMLIMIT", "700MiB")
            .envs(self.environment)
            .current_dir(place)
            .stdin(self.kubeconfig.map_or_else(Stdio::null, Stdio::from))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// Which part of a stream is kept.
enum Keep {
    /// The first bytes; more of them is an error.
    First(usize),
    /// The last bytes.
    Last(usize),
}

async fn read(
    stream: Option<impl AsyncRead + Unpin>,
    keep: Keep,
) -> Result<Vec<u8>, std::io::Error> {
    let mut into = Vec::new();
    let Some(mut stream) = stream else {
        return Ok(into);
    };
    let mut chunk = vec![0; 16 << 10];
    loop {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            return Ok(into);
        }
        into.extend_from_slice(&chunk[..count]);
        match keep {
            Keep::First(most) if into.len() > most => {
                return Err(std::io::ErrorKind::FileTooLarge.into());
            }
            Keep::Last(most) if into.len() > 2 * most => {
                into.drain(..into.len() - most);
            }
            Keep::First(_) | Keep::Last(_) => {}
        }
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

    #[tokio::test]
    async fn too_much_output_is_an_error_and_words_keep_their_end() {
        let text = vec![b'a'; 100_000];
        let cut = read(Some(text.as_slice()), Keep::First(10)).await;
        assert_eq!(
            cut.map_err(|error| error.kind()),
            Err(std::io::ErrorKind::FileTooLarge)
        );
        let kept = read(Some(text.as_slice()), Keep::Last(10)).await;
        assert!(kept.is_ok_and(|kept| kept.len() <= 20 + (16 << 10)));
    }
}
