//! Texts: expressions about processes, cgroup paths, names that become file names, and what /proc says around a name that a
//! process has chosen.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use procfs::process::{MountInfos, Stat, Status};
use procfs::{FromBufRead, FromRead, ProcessCGroups};
use recorder::attribution::container_and_unit;
use recorder::cli::filter::file_of;
use recorder::model::Process;
use recorder::selection::{Expr, parse};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 4 {
        0 => expression(bytes),
        1 => _ = container_and_unit(&String::from_utf8_lossy(bytes)),
        2 => file_name(&String::from_utf8_lossy(bytes)),
        _ => proc(bytes),
    }
});

/// An expression as it is printed means the same, and is printed the same.
fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let users = |_: &str| Some(1000);
    let expr = match parse(text, &users) {
        Ok(expr) => expr,
        Err(error) => {
            assert!(
                !error.to_string().chars().any(|letter| letter.is_control() && letter != '\n'),
                "{error}"
            );
            return;
        }
    };
    let printed = expr.to_string();
    let again =
        parse(&printed, &users).unwrap_or_else(|error| panic!("{text:?} is printed as {printed:?}: {error}"));
    assert_eq!(again.to_string(), printed);
    let holds = |expr: &Expr, process: Option<&Process>| expr.holds(process);
    for process in [None, Some(&Process::new(42, "curl")), Some(&Process::new(1000, text))] {
        assert_eq!(holds(&expr, process), holds(&again, process), "{text:?} and {printed:?}");
    }
}

/// Whatever a file is named after, it lies where it should, and its name is plain.
fn file_name(label: &str) {
    let path = file_of(Path::new("/tmp/x/a.pcapng"), label);
    assert_eq!(path.parent(), Some(Path::new("/tmp/x")));
    let name = path.file_name().and_then(|name| name.to_str()).expect("it has a name");
    assert!(name.starts_with("a_") && name.ends_with(".pcapng"), "{name:?}");
    assert!(name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)), "{name:?}");
}

/// A name stands in /proc/PID/stat between parentheses, and in /proc/PID/status behind its key, as the kernel writes it there.
fn proc(name: &[u8]) {
    let comm = &name[..name.iter().position(|byte| *byte == 0).unwrap_or(name.len()).min(15)];
    let stat = [
        b"4242 (",
        comm,
        b") S 1 4242 4242 0 -1 4194560 9 0 0 0 1 2 0 0 20 0 1 0 5555 1000 20",
        &b" 0".repeat(28),
    ]
    .concat();
    let stat = Stat::from_read(stat.as_slice()).expect("no name hides what is behind it");
    assert_eq!((stat.pid, stat.ppid, stat.flags, stat.starttime), (4242, 1, 4_194_560, 5555));
    let _ = Status::from_buf_read(name);
    let _ = ProcessCGroups::from_buf_read(name);
    let _ = MountInfos::from_buf_read(name);
}
