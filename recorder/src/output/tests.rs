use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;

const NEW: Manner = Manner { force: false, owner: None, compression: None };
const FORCED: Manner = Manner { force: true, ..NEW };

fn create(path: &Path, manner: &Manner) -> Result<Output, CreateError> {
    Output::create(path, manner, &|| true)
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_its_bytes_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    let mut output = create(&path, &NEW).unwrap();
    output.write_all(b"12345").unwrap();
    output.flush().unwrap();
    assert_eq!(output.written(), 5);
    assert_eq!(output.path(), path);
    assert!(!output.is_stream());
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

    let error = create(&path, &NEW).unwrap_err().to_string();
    assert!(error.starts_with(&format!("cannot create {}: ", path.display())), "{error}");
    assert!(error.contains("--force"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), b"precious");

    let mut output = create(&path, &FORCED).unwrap();
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
            let error = create(path, &Manner { force, ..NEW }).unwrap_err();
            assert!(!force || error.to_string().contains("symbolic link"), "{error}");
        }
    }
    assert_eq!(fs::read(&target).unwrap(), b"precious");
    assert!(!directory.path().join("nowhere").exists());
}

#[test]
fn what_is_no_regular_file_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let error = create(directory.path(), &FORCED).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
    let error = create(Path::new("/dev/null"), &FORCED).unwrap_err().to_string();
    assert!(error.contains("no regular file"), "{error}");
}

#[test]
fn a_missing_directory_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let error = create(&directory.path().join("no/such"), &NEW).unwrap_err().to_string();
    assert!(error.contains("directory does not exist"), "{error}");
}

#[test]
fn the_file_is_given_to_the_invoking_user_or_not_created() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng");
    match create(&path, &Manner { owner: Some((12345, 54321)), ..NEW }) {
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
    create(&path, &Manner { owner: Some((us.uid(), us.gid())), ..NEW }).unwrap();
}

#[test]
fn a_full_disk_is_told_with_the_bytes_written_so_far() {
    // A device on Linux that is always full; `create` refuses devices, so the test opens it itself.
    let Ok(file) = OpenOptions::new().write(true).open("/dev/full") else {
        println!("skipped: no /dev/full here");
        return;
    };
    let mut output = Place { sink: Sink::File(file), path: "/dev/full".into(), written: 42 };
    let error = output.write_all(b"x").unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    let text = error.to_string();
    assert!(text.starts_with("cannot write to /dev/full after 42 bytes: "), "{text}");
    assert!(text.contains("make room"), "{text}");
}

#[test]
fn a_compressed_file_is_as_large_as_what_has_arrived_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.pcapng.zst");
    let mut output = create(&path, &Manner { compression: Some(Compression::default()), ..NEW }).unwrap();
    let bytes = vec![7; 1 << 20];
    output.write_all(&bytes).unwrap();
    assert_eq!(output.on_the_way(), 1 << 20);
    output.flush().unwrap();
    assert_eq!(output.on_the_way(), 0);
    assert_eq!(output.written(), fs::metadata(&path).unwrap().len());
    assert!(output.written() > 0);
    let size = output.finish().unwrap();
    assert_eq!(size, fs::metadata(&path).unwrap().len());
    let mut read = Vec::new();
    open(&path).unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, bytes);
}

fn fifo(directory: &tempfile::TempDir) -> PathBuf {
    let path = directory.path().join("fifo");
    let status = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(status.success());
    path
}

#[test]
fn a_fifo_is_written_to_when_it_has_a_reader_and_stays() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(&directory);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let asked = AtomicBool::new(false);
    thread::scope(|scope| {
        let reader = scope.spawn(|| {
            // Not before somebody waits for it.
            while !asked.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            fs::read(&path).unwrap()
        });
        let goes_on = || {
            asked.store(true, Ordering::Relaxed);
            true
        };
        let mut output = Output::create(&path, &FORCED, &goes_on).unwrap();
        assert!(output.is_stream());
        output.write_all(b"12345").unwrap();
        output.flush().unwrap();
        drop(output);
        assert_eq!(reader.join().unwrap(), b"12345");
    });
    assert_eq!(mode(&path), 0o640);
}

#[test]
fn nobody_waits_for_the_reader_of_a_fifo_for_longer_than_the_user_wants() {
    let directory = tempfile::tempdir().unwrap();
    let error = Output::create(&fifo(&directory), &NEW, &|| false).unwrap_err().to_string();
    assert!(error.contains("nobody has opened this FIFO"), "{error}");
}

#[test]
fn a_fifo_without_a_reader_any_more_is_a_broken_pipe() {
    let directory = tempfile::tempdir().unwrap();
    let path = fifo(&directory);
    let reader =
        OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(&path).unwrap();
    let mut output = create(&path, &NEW).unwrap();
    drop(reader);
    assert_eq!(output.write_all(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_dash_is_standard_output() {
    let output = create(Path::new("-"), &Manner { owner: Some((1, 1)), ..NEW }).unwrap();
    assert!(output.is_stream());
    assert_eq!(output.path(), Path::new("standard output"));
}
