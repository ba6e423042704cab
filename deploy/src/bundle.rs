//! The bundle: a tar (or tar.gz) of `quaymaster.yaml` and the files that it names, unpacked in memory.
//!
//! Strict by contract: what could be read in two ways is refused. Called by [`crate::request`]'s
//! caller once the body is complete. Nothing is ever written to disk.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io::Read as _;

use proto::error::Code;
use proto::error::Place;

/// The name of the spec's file inside a bundle.
pub const SPEC_FILE: &str = "quaymaster.yaml";

/// Sizes that a bundle may have; configuration values with these defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the whole archive, unpacked.
    pub total: u64,
    /// Entries of any kind.
    pub entries: usize,
    /// Bytes of one file.
    pub file: u64,
    /// Bytes of `quaymaster.yaml`.
    pub spec: u64,
    /// Bytes of a path.
    pub path: usize,
    /// Segments of a path.
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            total: 32 << 20,
            entries: 5_000,
            file: 8 << 20,
            spec: 256 << 10,
            path: 240,
            depth: 16,
        }
    }
}

/// How the archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packing {
    /// `application/x-tar`.
    Tar,
    /// `application/gzip`.
    TarGz,
}

/// The files of a bundle by their path (`k8s/web.yaml`, never with a leading `./`).
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// Contents by path.
    pub files: BTreeMap<String, Vec<u8>>,
}

/// The caller's input is not valid.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the input is not valid: {}", code.title())]
pub struct InputError {
    /// Which code it gets: [`Code::BundleInvalid`], [`Code::TooLarge`], [`Code::SpecInvalid`] or
    /// [`Code::ManifestInvalid`].
    pub code: Code,
    /// Where, what, and what is expected; never a value from the files.
    pub places: Vec<Place>,
}

impl InputError {
    fn bundle(path: Option<&str>, message: impl Into<String>) -> Self {
        let place = Place {
            file: path.map(str::to_owned),
            ..Place::message(message)
        };
        Self {
            code: Code::BundleInvalid,
            places: vec![place],
        }
    }

    fn too_large(path: Option<&str>, message: impl Into<String>) -> Self {
        Self {
            code: Code::TooLarge,
            ..Self::bundle(path, message)
        }
    }
}

/// The size of a tar block.
const BLOCK: usize = 512;

/// Unpacks an archive.
///
/// # Errors
/// The first thing that the contract refuses, with the entry's path where it has one.
pub fn unpack(archive: &[u8], packing: Packing, limits: &Limits) -> Result<Bundle, InputError> {
    match packing {
        Packing::Tar => unpack_tar(archive, limits),
        Packing::TarGz => unpack_tar(&gunzip(archive, limits)?, limits),
    }
}

/// Unzips one gzip member, and no more bytes than a bundle may have.
fn gunzip(archive: &[u8], limits: &Limits) -> Result<Vec<u8>, InputError> {
    let mut reader = flate2::bufread::GzDecoder::new(archive);
    let mut bytes = Vec::new();
    reader
        .by_ref()
        .take(limits.total + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| {
            InputError::bundle(
                None,
                format!("the gzip stream cannot be read ({:?})", error.kind()),
            )
        })?;
    if bytes.len() as u64 > limits.total {
        return Err(over_total(limits));
    }
    if !reader.into_inner().is_empty() {
        return Err(InputError::bundle(
            None,
            "there is something behind the end of the gzip stream",
        ));
    }
    Ok(bytes)
}

fn over_total(limits: &Limits) -> InputError {
    InputError::too_large(
        None,
        format!("the bundle is larger than {} bytes unpacked", limits.total),
    )
}

/// What has been read of an archive so far.
struct Unpacker<'a> {
    limits: &'a Limits,
    bundle: Bundle,
    entries: usize,
    folders: BTreeSet<String>,
    folded: BTreeMap<String, String>,
    long_name: Option<String>,
    pax: Option<Pax>,
}

/// What a pax header says about the entry behind it.
#[derive(Default)]
struct Pax {
    path: Option<String>,
    size: Option<u64>,
}

fn unpack_tar(archive: &[u8], limits: &Limits) -> Result<Bundle, InputError> {
    if archive.len() as u64 > limits.total {
        return Err(over_total(limits));
    }
    let mut unpacker = Unpacker {
        limits,
        bundle: Bundle::default(),
        entries: 0,
        folders: BTreeSet::new(),
        folded: BTreeMap::new(),
        long_name: None,
        pax: None,
    };
    let mut rest = archive;
    while !rest.is_empty() {
        let Some((block, behind)) = rest.split_at_checked(BLOCK) else {
            return Err(InputError::bundle(
                None,
                "the archive is cut inside a header",
            ));
        };
        if block.iter().all(|byte| *byte == 0) {
            if rest.iter().any(|byte| *byte != 0) {
                return Err(InputError::bundle(
                    None,
                    "there is something behind the end of the archive",
                ));
            }
            break;
        }
        rest = unpacker.entry(block, behind)?;
    }
    unpacker.end()
}

impl Unpacker<'_> {
    /// Takes one entry; returns what is behind it.
    fn entry<'b>(&mut self, block: &[u8], behind: &'b [u8]) -> Result<&'b [u8], InputError> {
        self.entries += 1;
        if self.entries > self.limits.entries {
            let most = self.limits.entries;
            return Err(InputError::too_large(
                None,
                format!("the bundle has more than {most} entries"),
            ));
        }
        let header = tar::Header::from_byte_slice(block);
        check_sum(block, header)?;
        let kind = header.entry_type();
        let size = header
            .entry_size()
            .map_err(|_unreadable| InputError::bundle(None, "a header has no readable size"))?;
        let size = match (&self.pax, kind) {
            (
                Some(Pax {
                    size: Some(told), ..
                }),
                tar::EntryType::Regular,
            ) if *told != size => {
                return Err(InputError::bundle(
                    None,
                    "a pax header and the entry's own header disagree about its size",
                ));
            }
            _ => size,
        };
        let name = self.name(header, kind)?;
        if size > self.limits.file {
            let most = self.limits.file;
            return Err(InputError::too_large(
                name.as_deref(),
                format!("a file is larger than {most} bytes"),
            ));
        }
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        let Some((content, tail)) = behind.split_at_checked(size) else {
            return Err(InputError::bundle(
                name.as_deref(),
                "the archive is cut inside an entry",
            ));
        };
        let padding = size.div_ceil(BLOCK) * BLOCK - size;
        let Some((_, rest)) = tail.split_at_checked(padding) else {
            return Err(InputError::bundle(
                name.as_deref(),
                "the archive is cut behind an entry",
            ));
        };
        self.take(kind, name, content)?;
        Ok(rest)
    }

    /// Returns the checked path of a file or folder; `None` for headers that describe the next entry.
    fn name(
        &mut self,
        header: &tar::Header,
        kind: tar::EntryType,
    ) -> Result<Option<String>, InputError> {
        if !matches!(kind, tar::EntryType::Regular | tar::EntryType::Directory) {
            return Ok(None);
        }
        let told = self
            .long_name
            .take()
            .or_else(|| self.pax.take().and_then(|pax| pax.path));
        // A pax header may speak of the size alone.
        self.pax = None;
        let name = match told {
            Some(name) => name,
            None => {
                let bytes = header.path_bytes().into_owned();
                String::from_utf8(bytes)
                    .map_err(|_bad| InputError::bundle(None, "a path is not UTF-8"))?
            }
        };
        check_path(&name, self.limits).map(Some)
    }

    fn take(
        &mut self,
        kind: tar::EntryType,
        name: Option<String>,
        content: &[u8],
    ) -> Result<(), InputError> {
        match (kind, name) {
            (tar::EntryType::Regular, Some(name)) => self.file(name, content),
            (tar::EntryType::Directory, Some(name)) => self.folder(name),
            (tar::EntryType::GNULongName, _) => {
                self.describes_next()?;
                let text = content.strip_suffix(b"\0").unwrap_or(content);
                let name = String::from_utf8(text.to_vec());
                self.long_name =
                    Some(name.map_err(|_bad| InputError::bundle(None, "a path is not UTF-8"))?);
                Ok(())
            }
            (tar::EntryType::XHeader, _) => {
                self.describes_next()?;
                self.pax = Some(pax(content)?);
                Ok(())
            }
            (tar::EntryType::XGlobalHeader, _) => {
                let global = pax(content)?;
                if global.path.is_some() || global.size.is_some() {
                    return Err(InputError::bundle(
                        None,
                        "a global pax header sets path or size",
                    ));
                }
                Ok(())
            }
            (other, _) => Err(InputError::bundle(None, refused(other))),
        }
    }

    fn describes_next(&self) -> Result<(), InputError> {
        if self.long_name.is_some() || self.pax.is_some() {
            return Err(InputError::bundle(None, "two headers describe one entry"));
        }
        Ok(())
    }

    fn file(&mut self, name: String, content: &[u8]) -> Result<(), InputError> {
        if name == SPEC_FILE && content.len() as u64 > self.limits.spec {
            let most = self.limits.spec;
            return Err(InputError::too_large(
                Some(&name),
                format!("the file is larger than {most} bytes"),
            ));
        }
        if self.folders.contains(&name) {
            return Err(InputError::bundle(
                Some(&name),
                "the path is a file and a folder",
            ));
        }
        self.claim(&name)?;
        self.parents(&name)?;
        self.bundle.files.insert(name, content.to_vec());
        Ok(())
    }

    fn folder(&mut self, name: String) -> Result<(), InputError> {
        if name.is_empty() {
            return Ok(());
        }
        if self.bundle.files.contains_key(&name) {
            return Err(InputError::bundle(
                Some(&name),
                "the path is a file and a folder",
            ));
        }
        self.parents(&name)?;
        self.folders.insert(name);
        Ok(())
    }

    /// Notes a file's name; two that differ only by case are refused.
    fn claim(&mut self, name: &str) -> Result<(), InputError> {
        match self.folded.insert(name.to_lowercase(), name.to_owned()) {
            Some(other) if other == name => {
                Err(InputError::bundle(Some(name), "two entries have this path"))
            }
            Some(_) => Err(InputError::bundle(
                Some(name),
                "another entry's path differs from this one only by case",
            )),
            None => Ok(()),
        }
    }

    fn parents(&mut self, name: &str) -> Result<(), InputError> {
        let mut path = name;
        while let Some((parent, _)) = path.rsplit_once('/') {
            if self.bundle.files.contains_key(parent) {
                return Err(InputError::bundle(
                    Some(parent),
                    "the path is a file and a folder",
                ));
            }
            self.folders.insert(parent.to_owned());
            path = parent;
        }
        Ok(())
    }

    fn end(self) -> Result<Bundle, InputError> {
        if self.long_name.is_some() || self.pax.is_some() {
            return Err(InputError::bundle(
                None,
                "a header at the end describes an entry that is missing",
            ));
        }
        Ok(self.bundle)
    }
}

fn refused(kind: tar::EntryType) -> &'static str {
    match kind {
        tar::EntryType::Symlink | tar::EntryType::Link => {
            "the archive holds a link; pack files (tar -h follows links)"
        }
        tar::EntryType::Char | tar::EntryType::Block | tar::EntryType::Fifo => {
            "the archive holds a device or a pipe"
        }
        tar::EntryType::GNUSparse => "the archive holds a sparse file",
        _ => "the archive holds an entry that is neither file nor folder",
    }
}

/// Compares the header's sum, which counts its own field as spaces.
fn check_sum(block: &[u8], header: &tar::Header) -> Result<(), InputError> {
    let sum: u32 = block[..148]
        .iter()
        .chain(&block[156..])
        .map(|byte| u32::from(*byte))
        .sum::<u32>()
        + 8 * 32;
    match header.cksum() {
        Ok(told) if told == sum => Ok(()),
        Ok(_) | Err(_) => Err(InputError::bundle(
            None,
            "a header's checksum is wrong; this is no tar archive, or it is damaged",
        )),
    }
}

fn check_path(path: &str, limits: &Limits) -> Result<String, InputError> {
    let wrong = |message: &str| Err(InputError::bundle(None, message));
    if path.len() > limits.path {
        return Err(InputError::too_large(
            None,
            format!("a path is longer than {} bytes", limits.path),
        ));
    }
    if path.chars().any(char::is_control) || path.contains('\\') {
        return wrong("a path has a control character or a backslash");
    }
    if path.starts_with('/') {
        return wrong("a path is absolute");
    }
    if !unicode_normalization::is_nfc(path) {
        return wrong("a path is not in Unicode normal form C");
    }
    let inner = path.strip_prefix("./").unwrap_or(path);
    let inner = inner.strip_suffix('/').unwrap_or(inner);
    if inner.is_empty() || inner == "." {
        return Ok(String::new());
    }
    if inner
        .split('/')
        .any(|segment| matches!(segment, "" | "." | ".."))
    {
        return wrong("a path has an empty, '.' or '..' segment");
    }
    if inner.split('/').count() > limits.depth {
        return Err(InputError::too_large(
            None,
            format!("a path has more than {} segments", limits.depth),
        ));
    }
    Ok(inner.to_owned())
}

/// Reads the records of a pax header: `<length> <key>=<value>\n`.
fn pax(content: &[u8]) -> Result<Pax, InputError> {
    let wrong = || InputError::bundle(None, "a pax header is malformed");
    let mut found = Pax::default();
    let mut rest = content;
    while !rest.is_empty() {
        let space = rest
            .iter()
            .position(|byte| *byte == b' ')
            .ok_or_else(wrong)?;
        let length: usize = std::str::from_utf8(&rest[..space])
            .ok()
            .and_then(|text| text.parse().ok())
            .ok_or_else(wrong)?;
        let record = rest
            .get(space + 1..length)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or_else(wrong)?;
        let equals = record
            .iter()
            .position(|byte| *byte == b'=')
            .ok_or_else(wrong)?;
        let value = std::str::from_utf8(&record[equals + 1..]).map_err(|_bad| wrong())?;
        match &record[..equals] {
            b"path" => found.path = Some(value.to_owned()),
            b"size" => found.size = Some(value.parse().map_err(|_bad| wrong())?),
            key if key.starts_with(b"GNU.sparse") => {
                return Err(InputError::bundle(None, refused(tar::EntryType::GNUSparse)));
            }
            b"linkpath" => return Err(InputError::bundle(None, refused(tar::EntryType::Symlink))),
            _ => {}
        }
        rest = &rest[length..];
    }
    Ok(found)
}
