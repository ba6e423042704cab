//! What a child is before it is the program: this very program, giving up what the other must not
//! have, and then becoming it.
//!
//! Called by `main` before anything else. A child so ends with its parent even when that is killed,
//! has bounded memory and files, gains no rights, and is the first to go when memory is short. There
//! is no other way to do this between fork and exec without unsafe code.

use std::ffi::OsString;
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
/// Bytes of a child's own memory.
const MEMORY: u64 = 1 << 30;
/// Bytes of one file that a child writes.
const FILE: u64 = 256 << 20;
/// Open files of a child.
const OPEN: u64 = 512;

/// Becomes the program that the arguments name, if they begin with [`WORD`]: the parent's process id,
/// the program, its arguments. Returns only where there is nothing to become, or it failed.
#[must_use]
pub fn become_child(mut arguments: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    if arguments.nth(1)? != WORD {
        return None;
    }
    let error = match confine(arguments.next()) {
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
