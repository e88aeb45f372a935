use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_its_bytes_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    let mut output = Output::create(&path, false, None).unwrap();
    output.write_all(b"12345").unwrap();
    output.flush().unwrap();
    assert_eq!(output.written(), 5);
    assert_eq!(output.path(), path);
    assert!(!output.is_stdout());
    assert_eq!(fs::read(&path).unwrap(), b"12345");
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_file_that_is_there_stays_unless_forced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    fs::write(&path, b"precious").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let other_name = directory.path().join("other name");
    fs::hard_link(&path, &other_name).unwrap();

    let error = Output::create(&path, false, None).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot create {}: ", path.display())), "{error}");
    assert!(error.contains("--force"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let mut output = Output::create(&path, true, None).unwrap();
    output.write_all(b"new").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"new");
    assert_eq!(
        fs::read(other_name).unwrap(),
        b"precious",
        "another name of the old file is not written through"
    );
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn a_symbolic_link_is_never_followed() {
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("target");
    let link = directory.path().join("link");
    let dangling = directory.path().join("dangling");
    fs::write(&target, b"precious").unwrap();
    symlink(&target, &link).unwrap();
    symlink(directory.path().join("nowhere"), &dangling).unwrap();
    for path in [&link, &dangling] {
        for force in [false, true] {
            let error = Output::create(path, force, None).unwrap_err();
            assert!(!force || error.to_string().contains("symbolic link"), "{error}");
        }
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(!directory.path().join("nowhere").exists());
}

#[test]
fn what_is_no_regular_file_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let error = Output::create(directory.path(), true, None).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
    let error = Output::create(Path::new("/dev/null"), true, None).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
}

#[test]
fn a_missing_directory_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let error = Output::create(&directory.path().join("no/such"), false, None).unwrap_err().to_string();
    assert!(error.contains("directory does not exist"), "{error}");
}

#[test]
fn the_file_is_given_to_the_invoking_user_or_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    match Output::create(&path, false, Some((12345, 54321))) {
        Ok(_) => {
            let metadata = fs::metadata(&path).unwrap();
            assert_eq!((metadata.uid(), metadata.gid()), (12345, 54321));
        }
        // Without the right to give files away.
        Err(error) => {
            assert!(error.to_string().contains("given to its owner"), "{error}");
            assert!(!path.exists());
        }
    }
    let us = fs::metadata(directory.path()).unwrap();
    let path = directory.path().join("b.pcapng");
    Output::create(&path, false, Some((us.uid(), us.gid()))).unwrap();
}

#[test]
fn a_full_disk_is_told_with_the_bytes_written_so_far() {
    // A device on Linux that is always full; `create` refuses devices, so the test opens it itself.
    let Ok(file) = OpenOptions::new().write(true).open("/dev/full") else {
        println!("skipped: no /dev/full here");
        return;
    };
    let mut output = Output { sink: Sink::File(file), path: "/dev/full".into(), written: 42 };
    let error = output.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let text = error.to_string();
    assert!(text.starts_with("cannot write to /dev/full after 42 bytes: "), "{text}");
    assert!(text.contains("make room"), "{text}");
}

#[test]
fn a_dash_is_standard_output() {
    let output = Output::create(Path::new("-"), false, Some((1, 1))).unwrap();
    assert!(output.is_stdout());
    assert_eq!(output.path(), Path::new("standard output"));
}
