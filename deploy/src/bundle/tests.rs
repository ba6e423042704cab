//! What archives are taken and refused, sentence by sentence of the contract.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use tar::EntryType;
use tar::Header;

use super::*;

/// Appends one entry, with the name put in raw and the checksum right.
fn entry(archive: &mut Vec<u8>, kind: u8, name: &[u8], content: &[u8]) {
    let mut header = Header::new_ustar();
    let size = content.len() as u64;
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_entry_type(EntryType::new(kind));
    header.set_size(size);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}

fn tar(entries: &[(u8, &[u8], &[u8])]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (kind, name, content) in entries {
        entry(&mut archive, *kind, name, content);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn files(names: &[&str]) -> Vec<u8> {
    let entries: Vec<_> = names
        .iter()
        .map(|name| (b'0', name.as_bytes(), b"x".as_slice()))
        .collect();
    tar(&entries)
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("a vector takes all");
    encoder.finish().expect("a vector takes all")
}

fn read(archive: &[u8]) -> Result<Bundle, InputError> {
    unpack(archive, Packing::Tar, &Limits::default())
}

fn code(archive: &[u8]) -> Code {
    let error = read(archive).expect_err("refused");
    assert_eq!(error.places.len(), 1);
    error.code
}

fn pax_line(key: &str, value: &str) -> Vec<u8> {
    let rest = format!(" {key}={value}\n");
    let mut length = rest.len() + 1;
    while format!("{length}{rest}").len() != length {
        length += 1;
    }
    format!("{length}{rest}").into_bytes()
}

fn paths(bundle: &Bundle) -> Vec<&str> {
    bundle.files.keys().map(String::as_str).collect()
}

#[test]
fn files_and_directories_are_unpacked() {
    let archive = tar(&[
        (b'5', b"./", b""),
        (b'0', b"./quaymaster.yaml", b"version: 1\n"),
        (b'5', b"./k8s/", b""),
        (b'0', b"./k8s/web.yaml", b"kind: X\n"),
        (b'0', b"other/deep/file", b""),
    ]);
    let bundle = read(&archive).expect("valid");
    assert_eq!(
        paths(&bundle),
        ["k8s/web.yaml", "other/deep/file", "quaymaster.yaml"]
    );
    assert_eq!(bundle.files["k8s/web.yaml"], b"kind: X\n");
}

#[test]
fn ustar_gnu_and_pax_forms_are_taken() {
    let long = format!("{}/name", "x".repeat(120));
    let mut gnu = tar::Builder::new(Vec::new());
    let mut header = Header::new_gnu();
    header.set_size(2);
    gnu.append_data(&mut header, &long, b"hi".as_slice())
        .expect("appended");
    assert_eq!(
        paths(&read(&gnu.into_inner().expect("built")).expect("valid")),
        [&long]
    );

    let mut ustar = tar::Builder::new(Vec::new());
    let mut header = Header::new_ustar();
    header.set_size(2);
    ustar
        .append_data(&mut header, &long, b"hi".as_slice())
        .expect("appended");
    assert_eq!(
        paths(&read(&ustar.into_inner().expect("built")).expect("valid")),
        [&long]
    );

    let mut header = pax_line("path", &long);
    header.extend(pax_line("size", "2"));
    header.extend(pax_line("mtime", "1700000000.5"));
    header.extend(pax_line("SCHILY.xattr.user.a", "b"));
    let archive = tar(&[(b'x', b"pax", &header), (b'0', b"short", b"hi")]);
    assert_eq!(paths(&read(&archive).expect("valid")), [&long]);
}

#[test]
fn the_old_form_without_magic_is_refused() {
    let mut header = Header::new_old();
    header.set_path("a").expect("short");
    header.set_size(0);
    header.set_cksum();
    assert_eq!(code(header.as_bytes()), Code::BundleInvalid);
}

#[test]
fn everything_but_files_and_directories_is_refused() {
    for kind in b"1234678SMKVDNAXZ" {
        let mut archive = tar(&[(*kind, b"a", b"")]);
        assert_eq!(code(&archive), Code::BundleInvalid, "{}", char::from(*kind));
        archive = tar(&[(*kind, b"a", b"quaymaster.yaml\0"), (b'0', b"b", b"")]);
        assert_eq!(code(&archive), Code::BundleInvalid, "{}", char::from(*kind));
    }
    for key in ["linkpath", "GNU.sparse.major"] {
        let archive = tar(&[(b'x', b"p", &pax_line(key, "1")), (b'0', b"a", b"")]);
        assert_eq!(code(&archive), Code::BundleInvalid, "{key}");
    }
}

#[test]
fn names_that_leave_the_folder_or_mean_two_things_are_refused() {
    for name in [
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/..",
        "..",
        ".",
        "a//b",
        "a/./b",
        "././a",
        "a/",
        "",
        "a\\b",
        "a\nb",
        "a\u{7f}",
        "a\u{85}b",
        "e\u{301}",
        ".//a",
        "./",
    ] {
        assert_eq!(code(&files(&[name])), Code::BundleInvalid, "{name:?}");
        let header = pax_line("path", name);
        let archive = tar(&[(b'x', b"p", &header), (b'0', b"a", b"")]);
        assert_eq!(code(&archive), Code::BundleInvalid, "pax {name:?}");
        let archive = tar(&[(b'L', b"l", name.as_bytes()), (b'0', b"a", b"")]);
        assert_eq!(code(&archive), Code::BundleInvalid, "long name {name:?}");
    }
    assert_eq!(code(&tar(&[(b'0', b"a\xff", b"")])), Code::BundleInvalid);
    assert_eq!(code(&tar(&[(b'5', b"a//", b"")])), Code::BundleInvalid);
    assert_eq!(
        paths(&read(&files(&["\u{e9}", "...", "a b"])).expect("valid")).len(),
        3
    );
}

#[test]
fn a_name_is_one_entry() {
    for names in [
        ["a", "a"],
        ["a", "./a"],
        ["a", "A"],
        ["k8s/a", "K8s/b"],
        ["\u{e9}", "\u{c9}"],
        ["a", "a/b"],
        ["a/b", "a"],
        ["a/b", "A"],
    ] {
        assert_eq!(code(&files(&names)), Code::BundleInvalid, "{names:?}");
    }
    for entries in [
        [(b'5', "a/"), (b'5', "a")],
        [(b'5', "a"), (b'0', "a")],
        [(b'0', "a"), (b'5', "a/")],
    ] {
        let entries = entries.map(|(kind, name)| (kind, name.as_bytes(), b"".as_slice()));
        assert_eq!(code(&tar(&entries)), Code::BundleInvalid);
    }
    let late = tar(&[(b'0', b"a/b", b""), (b'5', b"a/", b""), (b'0', b"a/c", b"")]);
    assert_eq!(read(&late).expect("valid").files.len(), 2);
}

#[test]
fn checksums_and_sizes_have_to_be_right() {
    let good = files(&["a"]);
    for position in [0, 100, 130, 150, 257, 400] {
        let mut archive = good.clone();
        archive[position] ^= 1;
        assert_eq!(code(&archive), Code::BundleInvalid, "{position}");
    }
    let archive = tar(&[(b'x', b"p", &pax_line("size", "2")), (b'0', b"a", b"x")]);
    assert_eq!(code(&archive), Code::BundleInvalid);
    assert_eq!(code(&tar(&[(b'5', b"a", b"x")])), Code::BundleInvalid);
}

#[test]
fn a_huge_claimed_size_is_refused_without_allocation() {
    for field in [
        b"77777777777\0".as_slice(),
        b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
    ] {
        for kind in *b"0xgL" {
            let mut header = Header::new_gnu();
            header.set_path("big").expect("short");
            header.set_entry_type(EntryType::new(kind));
            header.as_mut_bytes()[124..136].copy_from_slice(field);
            header.set_cksum();
            assert_eq!(code(header.as_bytes()), Code::TooLarge);
        }
    }
    for field in [
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"-0000000001\0",
        b"0000000008x\0",
    ] {
        let mut header = Header::new_gnu();
        header.set_path("odd").expect("short");
        header.as_mut_bytes()[124..136].copy_from_slice(field);
        header.set_cksum();
        assert_eq!(code(header.as_bytes()), Code::BundleInvalid);
    }
}

#[test]
fn missing_end_blocks_are_tolerated_and_nothing_else_is_missing() {
    let archive = tar(&[(b'0', b"a", b"hello"), (b'0', b"b", &[7; 600])]);
    let content = archive.len() - 1024;
    let whole = read(&archive).expect("valid");
    assert_eq!(read(&archive[..content]), Ok(Bundle { files: whole.files }));
    for length in 0..archive.len() {
        let result = read(&archive[..length]);
        let complete = length >= content;
        let first_only = length == 1024;
        assert_eq!(result.is_ok(), complete || first_only, "{length}");
    }
}

#[test]
fn anything_but_zero_bytes_after_the_end_is_refused() {
    let mut archive = files(&["a"]);
    archive.resize(archive.len() + 10_240, 0);
    assert!(read(&archive).is_ok());
    archive.push(1);
    assert_eq!(code(&archive), Code::BundleInvalid);
    let mut twice = files(&["a"]);
    twice.extend(files(&["b"]));
    assert_eq!(code(&twice), Code::BundleInvalid);
}

#[test]
fn dangling_and_doubled_extended_headers_are_refused() {
    let path = pax_line("path", "b");
    let comment = pax_line("comment", "0123abcd");
    for entries in [
        vec![(b'0', "a", b"".as_slice()), (b'x', "p", &path)],
        vec![(b'0', "a", b"".as_slice()), (b'L', "l", b"long\0")],
        vec![(b'0', "a", b"".as_slice()), (b'g', "g", &comment)],
        vec![
            (b'x', "p", path.as_slice()),
            (b'x', "p", &path),
            (b'0', "a", b""),
        ],
        vec![
            (b'L', "l", b"b\0".as_slice()),
            (b'L', "l", b"c\0"),
            (b'0', "a", b""),
        ],
        vec![
            (b'L', "l", b"b\0".as_slice()),
            (b'x', "p", &path),
            (b'0', "a", b""),
        ],
        vec![(b'g', "g", path.as_slice()), (b'0', "a", b"")],
        vec![
            (b'x', "p", path.as_slice()),
            (b'g', "g", &comment),
            (b'0', "a", b""),
        ],
        vec![(b'x', "p", b"bad".as_slice()), (b'0', "a", b"")],
    ] {
        let entries: Vec<_> = entries
            .into_iter()
            .map(|(kind, name, content)| (kind, name.as_bytes(), content))
            .collect();
        assert_eq!(code(&tar(&entries)), Code::BundleInvalid, "{entries:?}");
    }
    let git = tar(&[(b'g', b"pax_global_header", &comment), (b'0', b"a", b"")]);
    assert_eq!(paths(&read(&git).expect("valid")), ["a"]);
}

#[test]
fn every_limit_answers_too_large() {
    let limits = Limits {
        total: 8_192,
        entries: 3,
        file: 1_000,
        spec: 100,
        path: 20,
        depth: 3,
    };
    let read = |archive: &[u8]| unpack(archive, Packing::Tar, &limits).map_err(|error| error.code);
    let big = |name: &'static [u8], size| tar(&[(b'0', name, &vec![b'x'; size])]);
    assert!(read(&big(b"a", 1_000)).is_ok());
    assert_eq!(read(&big(b"a", 1_001)), Err(Code::TooLarge));
    assert!(read(&big(b"quaymaster.yaml", 100)).is_ok());
    assert_eq!(read(&big(b"./quaymaster.yaml", 101)), Err(Code::TooLarge));
    assert!(read(&files(&["a", "b", "c"])).is_ok());
    assert_eq!(read(&files(&["a", "b", "c", "d"])), Err(Code::TooLarge));
    assert!(read(&files(&["a/b/c"])).is_ok());
    assert_eq!(read(&files(&["a/b/c/d"])), Err(Code::TooLarge));
    assert_eq!(
        read(&files(&["abcdefghijklmnopqrstu"])),
        Err(Code::TooLarge)
    );
    assert_eq!(read(&vec![0; 8_193]), Err(Code::TooLarge));
    let packed = gzip(&vec![0; 9_000]);
    let result = unpack(&packed, Packing::TarGz, &limits).map_err(|error| error.code);
    assert_eq!(result, Err(Code::TooLarge));
}

#[test]
fn a_hundred_thousand_files_are_refused() {
    let mut archive = Vec::new();
    for number in 0..5_001 {
        entry(&mut archive, b'0', format!("f{number}").as_bytes(), b"");
    }
    assert_eq!(code(&archive), Code::TooLarge);
}

#[test]
fn gzip_is_unpacked_whole_and_nothing_may_follow() {
    let archive = files(&["a"]);
    let read = |packed: &[u8]| unpack(packed, Packing::TarGz, &Limits::default());
    assert_eq!(read(&gzip(&archive)).expect("valid").files.len(), 1);
    let mut members = gzip(&archive[..700]);
    members.extend(gzip(&archive[700..]));
    assert_eq!(read(&members).expect("valid").files.len(), 1);
    for trailing in [
        b"x".as_slice(),
        b"\0",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        &[0x1f, 0x8b],
    ] {
        let mut packed = gzip(&archive);
        packed.extend_from_slice(trailing);
        assert_eq!(
            read(&packed).map_err(|error| error.code),
            Err(Code::BundleInvalid)
        );
    }
    let packed = gzip(&archive);
    for length in 0..packed.len() {
        assert!(read(&packed[..length]).is_err(), "{length}");
    }
}

#[test]
fn a_gzip_bomb_stops_at_the_limit() {
    let bomb = gzip(&vec![0; 64 << 20]);
    let result = unpack(&bomb, Packing::TarGz, &Limits::default());
    assert_eq!(result.map_err(|error| error.code), Err(Code::TooLarge));
}

#[test]
fn a_wrong_packing_is_told() {
    assert_eq!(code(&gzip(&files(&["a"]))), Code::BundleInvalid);
    let plain = unpack(&files(&["a"]), Packing::TarGz, &Limits::default());
    assert_eq!(plain.map_err(|error| error.code), Err(Code::BundleInvalid));
    assert_eq!(code(b""), Code::BundleInvalid);
    assert_eq!(code(b"hello"), Code::BundleInvalid);
}

#[test]
fn refused_characters_are_not_repeated() {
    let error = read(&files(&["hunter2\n"])).expect_err("refused");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[test]
fn damage_anywhere_never_panics() {
    let header = pax_line("path", "some/name");
    let good = tar(&[
        (b'x', b"p", &header),
        (b'0', b"a", b"hello"),
        (b'5', b"d/", b""),
    ]);
    for position in 0..good.len() {
        for value in [0, b'7', 0x80, 0xff] {
            let mut archive = good.clone();
            archive[position] = value;
            // The answer does not matter, only that there is one.
            drop(read(&archive));
        }
    }
}
