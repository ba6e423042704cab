//! What a child is before it is the program: this very program, giving up what the other must not
//! have, and then becoming it.
//!
//! Called by `main` before anything else. A child so ends with its parent even when that is killed,
//! has bounded memory and files, gains no rights, and is the first to go when memory is short. There
//! is no other way to do this between fork and exec without unsafe code.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::os::fd::IntoRawFd as _;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::ExitCode;

use rustix::process::Resource;
use rustix::process::Rlimit;
use rustix::process::Signal;
use rustix::process::getppid;
use rustix::process::set_parent_process_death_signal;
use rustix::process::setrlimit;

/// The first argument that makes this program a child.
pub const WORD: &str = "confined-child";
/// The same, for a child whose standard input is to be open at [`FILE_PATH`] instead, for it and for
/// the children that it has itself.
pub const WORD_WITH_FILE: &str = "confined-child-with-file";
/// Where such a child finds that file; every opening reads from its beginning.
pub(crate) const FILE_PATH: &str = "/proc/self/fd/3";
/// Bytes of a child's own memory.
const MEMORY: u64 = 1 << 30;
/// Bytes of one file that a child writes.
const FILE: u64 = 256 << 20;
/// Open files of a child.
const OPEN: u64 = 512;

/// Becomes the program that the arguments name, if they begin with [`WORD`] or [`WORD_WITH_FILE`]: the parent's process id,
/// the program, its arguments. Returns only where there is nothing to become, or it failed.
#[must_use]
pub fn become_child(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let word = arguments.nth(1)?;
    let confined = if word == WORD {
        confine(arguments.next())
    } else if word == WORD_WITH_FILE {
        confine(arguments.next()).and_then(|()| move_input())
    } else {
        return None;
    };
    let error = match confined {
        Ok(()) => {
            let program = arguments.next().unwrap_or_default();
            Command::new(program).args(arguments).exec()
        }
        Err(error) => error,
    };
    tell(&error);
    Some(ExitCode::from(126))
}

#[expect(
    clippy::print_stderr,
    reason = "the parent reads it; there is no log here"
)]
fn tell(error: &std::io::Error) {
    eprintln!("cannot be started: {error}");
}

fn confine(parent: Option<OsString>) -> Result<(), std::io::Error> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before that was asked for.
    let named = parent.and_then(|id| id.into_string().ok());
    let real = getppid().map(|id| id.as_raw_nonzero().get().to_string());
    if named.is_none() || named != real {
        return Err(std::io::Error::other("its parent is gone"));
    }
    rustix::thread::set_no_new_privs(true)?;
    for (resource, most) in [
        (Resource::Data, MEMORY),
        (Resource::Fsize, FILE),
        (Resource::Nofile, OPEN),
        (Resource::Core, 0),
    ] {
        let limit = Rlimit {
            current: Some(most),
            maximum: Some(most),
        };
        setrlimit(resource, limit)?;
    }
    // Where it cannot be said the limit above is all there is.
    drop(std::fs::write("/proc/self/oom_score_adj", "1000"));
    Ok(())
}

/// Moves standard input to descriptor 3, which stays open when the program is replaced.
fn move_input() -> Result<(), std::io::Error> {
    let file = rustix::io::dup(std::io::stdin())?;
    if file.as_raw_fd() != 3 {
        return Err(std::io::Error::other("descriptor 3 is taken"));
    }
    // It is for the program that this process becomes.
    let _stays = file.into_raw_fd();
    rustix::stdio::dup2_stdin(File::open("/dev/null")?)?;
    Ok(())
}
