//! What a program says about itself: one JSON line for each socket (or turn of use of a socket), written at its end.
//!
//! `start_ns` and `end_ns` are CLOCK_REALTIME, as the times of packets are. `start_ns` is before the first packet of a
//! client; for an accepted connection it is the moment after accept.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::sys;

static NAME: OnceLock<String> = OnceLock::new();

/// Remembers the name of this program: the last part of the path it was started by.
pub(crate) fn set_name(path: &str) {
    let name = path.rsplit('/').next().unwrap_or(path);
    NAME.get_or_init(|| name.to_string());
}

/// Nanoseconds since the epoch.
pub(crate) fn now_ns() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is before 1970").as_nanos()
}

/// One line of truth in the making.
pub(crate) struct Truth {
    role: &'static str,
    protocol: &'static str,
    start_ns: u128,
}

impl Truth {
    /// Begins now.
    pub(crate) fn begin(role: &'static str, protocol: &'static str) -> Self {
        Self { role, protocol, start_ns: now_ns() }
    }

    /// Ends now, and writes the line. No `remote`: any.
    pub(crate) fn end(self, log: Option<&str>, local: SocketAddr, remote: Option<SocketAddr>) {
        let Self { role, protocol, start_ns } = self;
        let (pid, tid) = (std::process::id(), sys::thread_id());
        let name = NAME.get().map_or("", String::as_str);
        let remote = remote.map_or("*".to_string(), |remote| remote.to_string());
        let end_ns = now_ns();
        let line = format!(
            "{{\"pid\":{pid},\"tid\":{tid},\"name\":\"{name}\",\"role\":\"{role}\",\"protocol\":\"{protocol}\",\
             \"local\":\"{local}\",\"remote\":\"{remote}\",\"start_ns\":{start_ns},\"end_ns\":{end_ns}}}\n"
        );
        write_line(log, &line);
    }
}

/// Appends a line to the log in one write, so that lines of several processes do not mix.
pub(crate) fn write_line(log: Option<&str>, line: &str) {
    let Some(path) = log else {
        let mut out = std::io::stdout().lock();
        out.write_all(line.as_bytes()).expect("cannot write to standard output");
        out.flush().expect("cannot write to standard output");
        return;
    };
    let mut file = OpenOptions::new().create(true).append(true).open(path).expect("cannot open the log");
    file.write_all(line.as_bytes()).expect("cannot write to the log");
}
