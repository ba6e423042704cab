//! The walk over the blocks of a tar archive, entry by entry, as strict as the contract.
//!
//! Called by [`super::unpack`]. A size in a header is compared with the limits and with what is
//! there before anything is allocated. Only files and directories come through; the names of both
//! are checked by [`super::names`], extended headers by [`super::pax`].

use tar::Header;

use super::Bundle;
use super::InputError;
use super::Limits;
use super::SPEC_FILE;
use super::names::Kind;
use super::names::Names;
use super::pax;
use super::pax::Pax;

const BLOCK: usize = 512;
/// Bytes that one extended header may have.
const EXTENDED: u64 = 64 << 10;

/// What came before an entry and belongs to it.
#[derive(Default)]
struct Pending {
    long_name: Option<Vec<u8>>,
    pax: Option<Pax>,
    /// A global header that no entry has followed yet.
    global: bool,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.long_name.is_none() && self.pax.is_none() && !self.global
    }
}

struct Walk<'a> {
    archive: &'a [u8],
    offset: usize,
    limits: &'a Limits,
    /// Files and directories so far.
    entries: usize,
    pending: Pending,
    names: Names,
    bundle: Bundle,
}

/// Unpacks a tar archive.
pub(super) fn unpack(archive: &[u8], limits: &Limits) -> Result<Bundle, InputError> {
    if archive.len() as u64 > limits.total {
        return Err(archive_too_large(limits));
    }
    let mut walk = Walk {
        archive,
        offset: 0,
        limits,
        entries: 0,
        pending: Pending::default(),
        names: Names::default(),
        bundle: Bundle::default(),
    };
    while walk.step()? {}
    Ok(walk.bundle)
}

/// The error for an archive over the limit.
pub(super) fn archive_too_large(limits: &Limits) -> InputError {
    let message = format!("the unpacked archive is over {} bytes", limits.total);
    InputError::too_large(None, message)
}

impl<'a> Walk<'a> {
    /// Reads one header with its content; `false` at the end.
    fn step(&mut self) -> Result<bool, InputError> {
        let rest = self.archive.get(self.offset..).unwrap_or_default();
        if rest.iter().take(BLOCK).all(|byte| *byte == 0) {
            return self.end(rest).map(|()| false);
        }
        let Some(block) = rest.get(..BLOCK) else {
            return Err(self.invalid("the archive is cut inside a header"));
        };
        let header = Header::from_byte_slice(block);
        self.check(header)?;
        let size = size_of(block).ok_or_else(|| self.invalid("a header has no valid size"))?;
        match block[156] {
            b'x' => self.local(size)?,
            b'g' => self.global(size)?,
            b'L' => self.long_name(size)?,
            b'0' | 0 => self.entry(header, size, Kind::File)?,
            b'5' => self.entry(header, size, Kind::Directory)?,
            other => return Err(self.invalid(refusal(other))),
        }
        Ok(true)
    }

    /// Nothing but zero bytes may follow the last entry.
    fn end(&self, rest: &[u8]) -> Result<(), InputError> {
        if !self.pending.is_empty() {
            return Err(self.invalid("an extended header belongs to no entry"));
        }
        if rest.iter().any(|byte| *byte != 0) {
            return Err(self.invalid("something follows the end of the archive"));
        }
        Ok(())
    }

    fn check(&self, header: &Header) -> Result<(), InputError> {
        let bytes = header.as_bytes();
        if header.as_ustar().is_none() && header.as_gnu().is_none() {
            return Err(self.invalid("a header is not tar in ustar, GNU or pax form"));
        }
        let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let expected = sum(&bytes[..148]) + sum(&bytes[156..]) + 8 * u64::from(b' ');
        if octal(&bytes[148..156]) != Some(expected) {
            return Err(self.invalid("a header has a wrong checksum"));
        }
        Ok(())
    }

    /// Takes the content of the header at the offset, and moves behind its padding.
    fn content(&mut self, size: u64) -> Result<&'a [u8], InputError> {
        let cut = "the archive is cut inside a file";
        let size = usize::try_from(size).map_err(|_too_big| self.invalid(cut))?;
        let start = self.offset + BLOCK;
        let padded = size
            .checked_next_multiple_of(BLOCK)
            .and_then(|size| start.checked_add(size));
        let end = padded.filter(|end| *end <= self.archive.len());
        let content = end.and_then(|_| self.archive.get(start..start + size));
        match (content, end) {
            (Some(content), Some(end)) => {
                self.offset = end;
                Ok(content)
            }
            _ => Err(self.invalid(cut)),
        }
    }

    fn extended(&mut self, size: u64) -> Result<&'a [u8], InputError> {
        if size > EXTENDED {
            let message = format!("an extended header is over {EXTENDED} bytes");
            return Err(InputError::too_large(None, message));
        }
        self.content(size)
    }

    fn local(&mut self, size: u64) -> Result<(), InputError> {
        if self.pending.pax.is_some() {
            return Err(self.invalid("two pax headers belong to one entry"));
        }
        let content = self.extended(size)?;
        self.pending.pax = Some(pax::parse(content).map_err(|problem| self.invalid(problem))?);
        Ok(())
    }

    fn global(&mut self, size: u64) -> Result<(), InputError> {
        if self.pending.pax.is_some() || self.pending.long_name.is_some() {
            return Err(self.invalid("a global pax header stands between an entry and its own"));
        }
        let content = self.extended(size)?;
        let pax = pax::parse(content).map_err(|problem| self.invalid(problem))?;
        if pax != Pax::default() {
            return Err(self.invalid("a global pax header sets paths or sizes"));
        }
        self.pending.global = true;
        Ok(())
    }

    fn long_name(&mut self, size: u64) -> Result<(), InputError> {
        if self.pending.long_name.is_some() {
            return Err(self.invalid("two long names belong to one entry"));
        }
        let content = self.extended(size)?;
        let name = content.strip_suffix(b"\0").unwrap_or(content);
        self.pending.long_name = Some(name.to_vec());
        Ok(())
    }

    fn entry(&mut self, header: &Header, size: u64, kind: Kind) -> Result<(), InputError> {
        let number = self.entries + 1;
        let pending = std::mem::take(&mut self.pending);
        let pax = pending.pax.unwrap_or_default();
        let raw = match (pending.long_name, pax.path) {
            (Some(_), Some(_)) => return Err(self.invalid("an entry has two long names")),
            (Some(name), None) | (None, Some(name)) => name,
            (None, None) => header.path_bytes().into_owned(),
        };
        self.entries = number;
        if self.entries > self.limits.entries {
            let message = format!("the bundle has more than {} entries", self.limits.entries);
            return Err(InputError::too_large(None, message));
        }
        let path = self.names.take(&raw, kind, number, self.limits)?;
        if pax.size.is_some_and(|claimed| claimed != size) {
            return Err(InputError::invalid(
                Some(&path),
                "its size in the header and in the pax header differ",
            ));
        }
        match kind {
            Kind::Directory if size > 0 => {
                Err(InputError::invalid(Some(&path), "a directory has content"))
            }
            Kind::Directory => self.content(0).map(|_| ()),
            Kind::File => self.file(path, size),
        }
    }

    fn file(&mut self, path: String, size: u64) -> Result<(), InputError> {
        let limit = if path == SPEC_FILE {
            self.limits.spec
        } else {
            self.limits.file
        };
        if size > limit {
            let message = format!("the file is over {limit} bytes");
            return Err(InputError::too_large(Some(&path), message));
        }
        let content = self.content(size)?.to_vec();
        self.bundle.files.insert(path, content);
        Ok(())
    }

    fn invalid(&self, what: &str) -> InputError {
        let after = match self.entries {
            0 => String::new(),
            entries => format!(" (after entry {entries})"),
        };
        InputError::invalid(None, format!("{what}{after}"))
    }
}

fn refusal(kind: u8) -> &'static str {
    match kind {
        b'1' => "a hard link is in the archive; pack with `tar --hard-dereference`",
        b'2' => "a symbolic link is in the archive; pack with `tar -h` to send what it points to",
        b'3' | b'4' => "a device is in the archive; only files and directories are taken",
        b'6' => "a FIFO is in the archive; only files and directories are taken",
        b'S' => "a sparse file is in the archive; pack without `--sparse`",
        b'M' => "the archive has several volumes; send one",
        b'K' => "a link is in the archive; pack with `tar -h` to send what it points to",
        _ => "an entry of an unknown type is in the archive; only files and directories are taken",
    }
}

/// Reads the size field: octal, or base 256 where the first bit is set.
fn size_of(block: &[u8]) -> Option<u64> {
    let field = block.get(124..136)?;
    let first = *field.first()?;
    if first & 0x80 == 0 {
        return octal(field);
    }
    let (high, low) = field.split_at(4);
    if first != 0x80 || high.iter().skip(1).any(|byte| *byte != 0) {
        return None;
    }
    low.try_into().ok().map(u64::from_be_bytes)
}

/// Reads octal digits that white space may precede and white space or a zero byte ends.
fn octal(field: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(field).ok()?;
    let text = text.trim_start_matches(' ').trim_end_matches([' ', '\0']);
    let digits = !text.is_empty() && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
    digits.then(|| u64::from_str_radix(text, 8).ok()).flatten()
}
