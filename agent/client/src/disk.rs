//! Files that a command leaves for people and later jobs.
//!
//! Called by `saved` and `feedback`. A file is written aside and renamed, so that a job that is cancelled
//! never leaves half of one.

use std::fs;
use std::io;
use std::io::Write as _;
use std::path::Path;
use std::path::PathBuf;

use proto::error::Code;
use proto::error::Problem;

/// Puts a file in place as a whole.
///
/// # Errors
/// It cannot be written; what was there before is still there.
pub(crate) fn put(file: &Path, content: &[u8]) -> Result<(), Problem> {
    let aside = aside(file);
    let written = write_aside(&aside, content).and_then(|()| fs::rename(&aside, file));
    written.map_err(|error| {
        // The file aside is of no use to anybody, and may not even exist.
        drop(fs::remove_file(&aside));
        let detail = format!("writing {}: {error}", file.display());
        Problem::new(Code::BadRequest, detail)
            .hint("name a file in a folder that the job may write to")
    })
}

fn write_aside(aside: &Path, content: &[u8]) -> io::Result<()> {
    let mut out = fs::File::create(aside)?;
    out.write_all(content)?;
    out.sync_all()
}

/// Names a file in the same folder, which a rename can replace the other with.
fn aside(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_os_string();
    name.push(format!(".{}", std::process::id()));
    file.with_file_name(name)
}
