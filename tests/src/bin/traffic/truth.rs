//! What a program says about itself: one JSON line for each socket (or turn of use of a socket), written at its end.
//!
//! `start_ns` and `end_ns` are CLOCK_REALTIME, as the times of packets are; where that is set meanwhile, a variable asks for
//! CLOCK_BOOTTIME ([`BOOT_TIME`]). `start_ns` is before the first packet of a
//! client; for an accepted connection it is the moment after accept. A line with an `end_ns` of 0 says that the socket is
//! open; another one of the same process, socket and start may say later when it ended. `closing_ns` is before the close,
//! and 0 if that is not told.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::sync::{LazyLock, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use recorder_tests::clock::{self, BOOT_TIME};

static NAME: OnceLock<Vec<u8>> = OnceLock::new();
static IS_BY_BOOT_TIME: LazyLock<bool> = LazyLock::new(|| std::env::var_os(BOOT_TIME).is_some());

/// Remembers the name of this program: the last part of the path it was started by.
pub(crate) fn set_name(path: &OsStr) {
    let name = path.as_bytes().rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    NAME.get_or_init(|| name.to_vec());
}

/// Nanoseconds since the epoch, or since the machine was started.
pub(crate) fn now_ns() -> u128 {
    if *IS_BY_BOOT_TIME {
        return clock::boot().as_nanos();
    }
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is before 1970").as_nanos()
}

/// One line of truth in the making.
#[derive(Clone, Copy)]
pub(crate) struct Truth {
    role: &'static str,
    protocol: &'static str,
    start_ns: u128,
    closing_ns: u128,
}

impl Truth {
    /// Begins now.
    pub(crate) fn begin(role: &'static str, protocol: &'static str) -> Self {
        Self { role, protocol, start_ns: now_ns(), closing_ns: 0 }
    }

    /// The socket is closed next. Without this nobody can tell the time of the close from that of [`Truth::end`], which may
    /// be much later on a busy machine.
    pub(crate) fn closing(self) -> Self {
        Self { closing_ns: now_ns(), ..self }
    }

    /// Says that the socket is open. No `remote`: any.
    pub(crate) fn open(self, log: Option<&str>, local: SocketAddr, remote: Option<SocketAddr>) {
        write_line(log, &self.line(local, remote, 0));
    }

    /// Ends now, and writes the line. No `remote`: any.
    pub(crate) fn end(self, log: Option<&str>, local: SocketAddr, remote: Option<SocketAddr>) {
        write_line(log, &self.ended(local, remote));
    }

    /// Ends now; the line is for somebody else to write.
    pub(crate) fn ended(self, local: SocketAddr, remote: Option<SocketAddr>) -> String {
        self.line(local, remote, now_ns())
    }

    fn line(self, local: SocketAddr, remote: Option<SocketAddr>, end_ns: u128) -> String {
        let Self { role, protocol, start_ns, closing_ns } = self;
        let (pid, tid) = ids_on_the_host();
        let mut hex = String::new();
        for byte in NAME.get().into_iter().flatten() {
            // Writing to a string cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        let remote = remote.map_or("*".to_string(), |remote| remote.to_string());
        format!(
            "{{\"pid\":{pid},\"tid\":{tid},\"name_hex\":\"{hex}\",\"role\":\"{role}\",\"protocol\":\"{protocol}\",\
             \"local\":\"{local}\",\"remote\":\"{remote}\",\"start_ns\":{start_ns},\"closing_ns\":{closing_ns},\
             \"end_ns\":{end_ns}}}\n"
        )
    }
}

/// Process and thread id as /proc numbers them, which is the host's: a pid namespace of our own has no /proc of its own
/// in these tests.
fn ids_on_the_host() -> (u32, u32) {
    let link = std::fs::read_link("/proc/thread-self").expect("cannot read /proc/thread-self");
    let text = link.to_str().expect("/proc/thread-self is PID/task/TID");
    let mut parts = text.split('/').filter_map(|part| part.parse().ok());
    let pid = parts.next().expect("/proc/thread-self begins with a process id");
    (pid, parts.next().expect("/proc/thread-self ends with a thread id"))
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
