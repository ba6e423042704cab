//! Extended headers of the pax form: `length key=value` lines.
//!
//! Called by [`super::walk`]. Times, owners and attributes are passed over; what changes which file
//! is meant is taken (path, size) or refused (links, sparse maps).

use std::collections::BTreeSet;

/// What an extended header says about its entry.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    /// Its path, unchecked.
    pub(super) path: Option<Vec<u8>>,
    /// Its size.
    pub(super) size: Option<u64>,
}

/// Reads the lines of an extended header.
pub(super) fn parse(mut content: &[u8]) -> Result<Pax, &'static str> {
    let mut pax = Pax::default();
    let mut seen = BTreeSet::new();
    while !content.is_empty() {
        let (key, value, rest) = line(content).ok_or("a pax header is malformed")?;
        content = rest;
        if !seen.insert(key) {
            return Err("a pax header says one thing twice");
        }
        match key {
            b"path" if value.is_empty() => return Err("a pax header has an empty path"),
            b"path" => pax.path = Some(value.to_vec()),
            b"size" => pax.size = Some(number(value).ok_or("a pax header has no valid size")?),
            b"linkpath" => return Err("a link is in the archive; pack with `tar -h`"),
            _ if key.starts_with(b"GNU.sparse.") => {
                return Err("a sparse file is in the archive; pack without `--sparse`");
            }
            _ => {}
        }
    }
    Ok(pax)
}

type Line<'a> = (&'a [u8], &'a [u8], &'a [u8]);

fn line(content: &[u8]) -> Option<Line<'_>> {
    let space = content.iter().take(8).position(|byte| *byte == b' ')?;
    let length = usize::try_from(number(content.get(..space)?)?).ok()?;
    let record = content.get(space + 1..length)?.strip_suffix(b"\n")?;
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let key = record.get(..equals).filter(|key| !key.is_empty())?;
    Some((key, record.get(equals + 1..)?, content.get(length..)?))
}

fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(text).ok()?;
    digits.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn path_and_size_are_taken_and_the_rest_is_passed_over() {
        let pax = parse(b"12 path=a/b\n9 size=3\n20 mtime=1700000000\n");
        let expected = Pax {
            path: Some(b"a/b".to_vec()),
            size: Some(3),
        };
        assert_eq!(pax, Ok(expected));
        assert_eq!(parse(b""), Ok(Pax::default()));
    }

    #[test]
    fn malformed_lines_are_refused() {
        for bad in [
            b"path=a\n".as_slice(),
            b"12 path=a/b",
            b"13 path=a/b\n",
            b"3 path=a/b\n",
            b"0 path=a/b\n",
            b"99999999999999999999 path=a\n",
            b"9 path a\n",
            b"6 =ab\n",
            b"8 path=\n",
            b"10 size=x\n",
            b"9 size=3\n9 size=3\n",
            b"14 linkpath=a\n",
            b"23 GNU.sparse.major=1\n",
        ] {
            assert!(parse(bad).is_err(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
