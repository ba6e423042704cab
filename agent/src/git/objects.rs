//! Files out of a commit, and a commit out of files: by objects, without a working tree.
//!
//! Used by [`super`]. Links, submodules and whatever is no plain file are passed over when reading; a
//! commit changes contents of plain files and nothing else.

use std::collections::BTreeMap;

use deploy::ports::Change;
use deploy::ports::CommitId;
use deploy::ports::Files;
use deploy::ports::GitError;

use super::Call;
use super::Copy;
use super::broken;

/// Most files that are read.
const FILES: usize = 10_000;
/// Most bytes of one of them; larger ones hold no manifest.
const SIZE: u64 = 3 << 20;

/// A plain file of a commit.
struct Entry {
    mode: String,
    object: String,
    path: String,
}

/// Reads the plain files below some paths.
pub(super) async fn files(
    copy: &Copy<'_>,
    commit: &CommitId,
    paths: &[String],
) -> Result<Files, GitError> {
    let entries = list(copy, commit, paths).await?;
    let mut wanted = String::new();
    for entry in &entries {
        wanted.push_str(&entry.object);
        wanted.push('\n');
    }
    let call = Call {
        input: Some(wanted.as_bytes()),
        ..Call::new(["cat-file", "--batch", "--buffer"])
    };
    let out = copy.local(call).await?;
    let mut rest = out.as_slice();
    let mut files = Files::new();
    for entry in entries {
        let content = batched(&mut rest).ok_or_else(|| broken("cat-file printed less"))?;
        files.insert(entry.path, content);
    }
    Ok(files)
}

/// Takes one object of `cat-file --batch`: a line with its size, its bytes, a line end.
fn batched(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    let (head, body) = rest.split_at_checked(end + 1)?;
    let head = std::str::from_utf8(head).ok()?;
    let size: usize = head.trim_end().rsplit(' ').next()?.parse().ok()?;
    let (content, after) = body.split_at_checked(size)?;
    *rest = after.get(1..)?;
    Some(content.to_vec())
}

async fn list(
    copy: &Copy<'_>,
    commit: &CommitId,
    paths: &[String],
) -> Result<Vec<Entry>, GitError> {
    let mut call = Call::new(["ls-tree", "-r", "-z", "-l", "--full-tree"]);
    call.environment.push(("GIT_LITERAL_PATHSPECS", "1".into()));
    call.words.extend([commit.as_str().into(), "--".into()]);
    call.words.extend(paths.iter().map(Into::into));
    let out = copy.local(call).await?;
    let lines = out.split(|byte| *byte == 0).filter(|line| !line.is_empty());
    let entries: Vec<Entry> = lines.filter_map(entry).collect();
    if entries.len() > FILES {
        let told = format!("the paths hold {} files, more than {FILES}", entries.len());
        return Err(broken(told));
    }
    Ok(entries)
}

/// Reads `<mode> <type> <object> <size>\t<path>`; none for what is passed over.
fn entry(line: &[u8]) -> Option<Entry> {
    let line = std::str::from_utf8(line).ok()?;
    let (head, path) = line.split_once('\t')?;
    let mut words = head.split_ascii_whitespace();
    let (mode, kind, object, size) = (words.next()?, words.next()?, words.next()?, words.next()?);
    let plain = kind == "blob" && matches!(mode, "100644" | "100755");
    let small = size.parse::<u64>().is_ok_and(|size| size <= SIZE);
    (plain && small).then(|| Entry {
        mode: mode.to_owned(),
        object: object.to_owned(),
        path: path.to_owned(),
    })
}

/// Makes the commit of a change.
pub(super) async fn commit(copy: &Copy<'_>, change: &Change) -> Result<CommitId, GitError> {
    let index = copy.folder.path().join("index");
    let with_index = |mut call: Call<'static>| {
        call.environment
            .push(("GIT_INDEX_FILE", index.clone().into()));
        call
    };
    let mut read = with_index(Call::new(["read-tree"]));
    read.words.push(change.parent.as_str().into());
    copy.local(read).await?;
    let update = update(copy, change).await?;
    let call = with_index(Call::new(["update-index", "-z", "--index-info"]));
    let call = Call {
        input: Some(&update),
        ..call
    };
    copy.local(call).await?;
    let tree = text(copy.local(with_index(Call::new(["write-tree"]))).await?);
    let mut call = Call::new(["commit-tree", "-F", "-", "-p"]);
    call.words
        .extend([change.parent.as_str().into(), tree.into()]);
    let date = format!("{} +0000", change.time.as_second());
    for role in ["AUTHOR", "COMMITTER"] {
        let names: [&'static str; 3] = match role {
            "AUTHOR" => ["GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_AUTHOR_DATE"],
            _ => [
                "GIT_COMMITTER_NAME",
                "GIT_COMMITTER_EMAIL",
                "GIT_COMMITTER_DATE",
            ],
        };
        let values = [&change.author, &change.email, &date];
        let pairs = names.into_iter().zip(values);
        call.environment
            .extend(pairs.map(|(name, value)| (name, value.into())));
    }
    let call = Call {
        input: Some(change.message.as_bytes()),
        ..call
    };
    let out = text(copy.local(call).await?);
    CommitId::parse(&out).ok_or_else(|| broken("commit-tree printed no commit"))
}

/// Writes the new contents as objects; returns the lines for `update-index --index-info`.
async fn update(copy: &Copy<'_>, change: &Change) -> Result<Vec<u8>, GitError> {
    let paths: Vec<String> = change.files.keys().cloned().collect();
    let entries = list(copy, &change.parent, &paths).await?;
    let modes: BTreeMap<&str, &str> = entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.mode.as_str()))
        .collect();
    let mut update = Vec::new();
    for (path, content) in &change.files {
        let mode = modes.get(path.as_str());
        let mode = mode.ok_or_else(|| broken(format!("{path} is no plain file")))?;
        let call = Call {
            input: Some(content),
            // Without filters: the bytes are what they are.
            ..Call::new(["hash-object", "-w", "--stdin", "--no-filters"])
        };
        let object = text(copy.local(call).await?);
        update.extend_from_slice(format!("{mode} {object}\t{path}\0").as_bytes());
    }
    Ok(update)
}

fn text(out: Vec<u8>) -> String {
    String::from_utf8_lossy(&out).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_files_of_a_sane_size_are_read() {
        let line = |mode: &str, kind: &str, size: &str| {
            let line = format!("{mode} {kind} 0123  {size}\ta b/c.yaml");
            entry(line.as_bytes()).map(|entry| entry.path)
        };
        assert_eq!(line("100644", "blob", "12"), Some("a b/c.yaml".to_owned()));
        assert_eq!(line("100755", "blob", "12"), Some("a b/c.yaml".to_owned()));
        assert_eq!(line("120000", "blob", "12"), None, "a link");
        assert_eq!(line("160000", "commit", "-"), None, "a submodule");
        assert_eq!(line("100644", "blob", "99999999"), None, "too large");
    }

    #[test]
    fn batched_objects_are_cut_by_their_size() {
        let mut rest = b"01 blob 3\na\nb\n02 blob 0\n\n".as_slice();
        assert_eq!(batched(&mut rest), Some(b"a\nb".to_vec()));
        assert_eq!(batched(&mut rest), Some(Vec::new()));
        assert_eq!(batched(&mut rest), None);
        assert_eq!(batched(&mut b"03 missing\n".as_slice()), None);
    }
}
