use std::io::Read as _;

use super::*;

/// The smallest program: a header, and segments of these types.
fn elf(machine: u16, segments: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let count = u16::try_from(segments.len()).unwrap();
    bytes.extend(2u16.to_le_bytes());
    bytes.extend(machine.to_le_bytes());
    bytes.extend(1u32.to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(64u64.to_le_bytes());
    bytes.extend([0; 12]);
    for half in [64u16, 56, count, 64, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for kind in segments {
        bytes.extend(kind.to_le_bytes());
        bytes.extend([0; 52]);
    }
    bytes
}

const X86_64: u16 = 62;
const AARCH64: u16 = 183;
const RISCV: u16 = 243;

fn image(files: &[(&str, File)]) -> Image {
    Image {
        name: "example.com/a/b:1".to_owned(),
        files: files
            .iter()
            .map(|(path, file)| ((*path).to_owned(), file.clone()))
            .collect(),
        entrypoint: vec!["/bin/a".to_owned()],
        ..Image::default()
    }
}

fn static_program() -> File {
    File::Program(elf(X86_64, &[object::elf::PT_LOAD]))
}

fn unpacked(tar: &[u8]) -> BTreeMap<String, (Header, Vec<u8>)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        (
            entry.path().unwrap().display().to_string(),
            (entry.header().clone(), bytes),
        )
    });
    entries.collect()
}

#[test]
fn an_image_is_named_by_its_content_all_the_way_down() {
    let archive = image(&[
        ("bin/a", static_program()),
        ("bin/also", File::SameAs("bin/a".into())),
    ])
    .archive()
    .unwrap();
    assert_eq!(archive.architecture, "amd64");
    let files = unpacked(&archive.bytes);
    let json = |path: &str| -> Value { serde_json::from_slice(&files[path].1).unwrap() };
    for (path, (_, bytes)) in &files {
        if let Some(name) = path.strip_prefix("blobs/sha256/") {
            assert_eq!(name, digest(bytes));
        }
    }
    let index = json("index.json");
    assert_eq!(index["manifests"][0]["digest"], archive.digest);
    assert_eq!(
        index["manifests"][0]["annotations"]["io.containerd.image.name"],
        "example.com/a/b:1"
    );
    let blob = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let path = format!("blobs/{}", digest.replace(':', "/"));
        assert_eq!(files[&path].1.len() as u64, descriptor["size"].as_u64().unwrap());
        path
    };
    let manifest = json(&blob(&index["manifests"][0]));
    let config = json(&blob(&manifest["config"]));
    let mut layer = Vec::new();
    flate2::read::GzDecoder::new(&files[&blob(&manifest["layers"][0])].1[..])
        .read_to_end(&mut layer)
        .unwrap();
    assert_eq!(
        config["rootfs"]["diff_ids"][0],
        format!("sha256:{}", digest(&layer))
    );
    assert_eq!(json("manifest.json")[0]["Config"], blob(&manifest["config"]));

    let held = unpacked(&layer);
    let names: Vec<_> = held.keys().map(String::as_str).collect();
    assert_eq!(names, ["bin/", "bin/a", "bin/also"], "nothing else, and no shell");
    for (header, _) in held.values() {
        let of = (
            header.mtime().unwrap(),
            header.uid().unwrap(),
            header.gid().unwrap(),
        );
        assert_eq!((of, header.mode().unwrap()), ((0, 0, 0), 0o755));
    }
    assert_eq!(held["bin/also"].0.entry_type(), EntryType::Link);
}

#[test]
fn the_same_programs_give_the_same_bytes() {
    let one = image(&[("bin/a", static_program()), ("b", static_program())])
        .archive()
        .unwrap();
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let two = image(&[("b", static_program()), ("bin/a", static_program())])
        .archive()
        .unwrap();
    assert_eq!((one.digest, one.bytes), (two.digest, two.bytes));
    let other = image(&[("bin/a", static_program()), ("c", static_program())])
        .archive()
        .unwrap();
    assert_ne!(two.architecture.len() + other.digest.len(), 0);
}

#[test]
fn what_would_not_start_is_refused() {
    let wrong = |files: &[(&str, File)], why: &str| {
        let error = format!("{:#}", image(files).archive().unwrap_err());
        assert!(error.contains(why), "{error}");
    };
    let dynamic = File::Program(elf(X86_64, &[object::elf::PT_INTERP, object::elf::PT_LOAD]));
    wrong(
        &[("bin/a", dynamic)],
        "bin/a can not be in an image from scratch: it is not static",
    );
    wrong(&[("bin/a", File::Program(b"#!/bin/sh\n".to_vec()))], "no program");
    let arm = File::Program(elf(AARCH64, &[object::elf::PT_LOAD]));
    assert_eq!(
        image(&[("bin/a", arm.clone())]).archive().unwrap().architecture,
        "arm64"
    );
    wrong(
        &[("bin/a", arm), ("bin/b", static_program())],
        "of another machine",
    );
    wrong(&[("bin/a", File::Program(elf(RISCV, &[])))], "Riscv64");
    wrong(
        &[("bin/a", static_program()), ("b", File::SameAs("bin/x".into()))],
        "not there",
    );
    wrong(&[], "without a program");
}
