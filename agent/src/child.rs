//! Runs one child to its end: limits of time and output, its whole process group ended.
//!
//! Used by [`crate::render`] and [`crate::git`]. Nothing of a child outlives the call; a caller that is
//! dropped ends it too. A child that writes elsewhere is asked to end before it is killed, so that Helm
//! can note in its record that it failed. [`confine`] is what a child is before it is the program,
//! [`folder`] is its place.

pub mod confine;
pub(crate) mod folder;

use std::ffi::OsString;
use std::fs::File;
use std::io::Seek as _;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitStatus;
use std::process::Stdio;
use std::time::Duration;

use rustix::fs::MemfdFlags;
use rustix::fs::Mode;
use rustix::fs::SealFlags;
use rustix::process::Pid;
use rustix::process::Signal;
use rustix::process::kill_process_group;
use tokio::io::AsyncRead;
use tokio::io::AsyncReadExt;
use tokio::process::Command;

/// Bytes of output that are taken.
const OUTPUT: usize = 32 << 20;
/// Bytes of a child's words about errors that are kept.
const WORDS: usize = 64 << 10;
/// How long a child that was asked to end may take.
const GRACE: Duration = Duration::from_secs(10);

/// How a child is ended that takes too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// At once.
    Kill,
    /// By asking first.
    Ask,
}

/// What a child gets beside its words.
pub(crate) enum Input {
    /// Nothing.
    Nothing,
    /// A file as standard input.
    Standard(File),
    /// A file that it and its own children open as [`confine::FILE_PATH`].
    Inherited(File),
}

/// A child to run.
pub(crate) struct Child<'a> {
    pub(crate) program: &'a Path,
    pub(crate) words: Vec<OsString>,
    pub(crate) environment: Vec<(&'static str, OsString)>,
    pub(crate) input: Input,
    pub(crate) ending: Ending,
    pub(crate) time: Duration,
}

/// How a child ended by itself.
pub(crate) struct Ended {
    pub(crate) status: ExitStatus,
    /// What it printed.
    pub(crate) out: Vec<u8>,
    /// The end of its words about errors; not to be trusted.
    pub(crate) words: String,
}

/// Why there is no end of the child's own.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChildError {
    /// It could not be run.
    #[error("it cannot be run: {0}")]
    Broken(#[from] std::io::Error),
    /// It was ended: it took too long.
    #[error("it was ended after {seconds} s")]
    Late { seconds: u64 },
    /// It was ended: it wrote too much.
    #[error("it was ended: it wrote more than {limit} bytes")]
    TooMuch { limit: usize },
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
    /// Runs the child in a folder.
    pub(crate) async fn run(self, place: &Path) -> Result<Ended, ChildError> {
        let (time, ending) = (self.time, self.ending);
        let mut child = self.command(place).spawn()?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        let group = Group(pid.and_then(Pid::from_raw));
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
        let seconds = time.as_secs();
        match ended.ok_or(ChildError::Late { seconds })? {
            Ok((status, out, err)) => Ok(Ended {
                status,
                out,
                words: String::from_utf8_lossy(&err).into_owned(),
            }),
            Err(error) if error.kind() == std::io::ErrorKind::FileTooLarge => {
                Err(ChildError::TooMuch { limit: OUTPUT })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn command(self, place: &Path) -> Command {
        let mut command = Command::new("/proc/self/exe");
        let (word, input) = match self.input {
            Input::Nothing => (confine::WORD, Stdio::null()),
            Input::Standard(file) => (confine::WORD, Stdio::from(file)),
            Input::Inherited(file) => (confine::WORD_WITH_FILE, Stdio::from(file)),
        };
        command
            .arg(word)
            .arg(std::process::id().to_string())
            .arg(self.program)
            .args(self.words)
            .env_clear()
            .env("HOME", place)
            .env("TMPDIR", place)
            .env("GOMEMLIMIT", "700MiB")
            .envs(self.environment)
            .current_dir(place)
            .stdin(input)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        command
    }
}

/// A text in memory that is on no disk and cannot be changed; only who inherits it can read it.
pub(crate) fn sealed(name: &str, text: &[u8]) -> Result<File, std::io::Error> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let mut file = File::from(rustix::fs::memfd_create(name, flags)?);
    rustix::fs::fchmod(&file, Mode::RUSR)?;
    file.write_all(text)?;
    // Whoever gets it as standard input reads from here; openings by its path begin anew anyway.
    file.rewind()?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&file, seals)?;
    Ok(file)
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

#[cfg(test)]
mod tests {
    use super::*;

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
