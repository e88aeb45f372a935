//! The recorders that are compared, each started in the way that makes it comparable: the same ring (64 MiB), the same
//! snap length (their default, 262144), everything written to a file, the second core for its own.

use std::process::Command;

use recorder_tests::namespace::Namespace;
use recorder_tests::process::{Output, Running, SIGINT};
use recorder_tests::recorder;

/// The core of those who send; the recorder has the other.
pub(crate) const SENDERS_CORE: &str = "0";
const RECORDERS_CORE: &str = "1";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    Tcpdump,
    Dumpcap,
    Recorder,
    /// With all the rights that it was started with.
    Unrestricted,
}

impl Tool {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Tcpdump => "tcpdump -w",
            Self::Dumpcap => "dumpcap -w",
            Self::Recorder => "recorder, full annotation",
            Self::Unrestricted => "the same, --sandbox off",
        }
    }

    /// Starts it, and waits until it records.
    pub(crate) fn start(self, namespace: &Namespace, interface: &str, file: &str) -> Running {
        let mut command = pinned(namespace, RECORDERS_CORE, &self.program());
        match self {
            // -Z root: as root it would change to a user who may not write the file. -p: nobody here is promiscuous.
            Self::Tcpdump => {
                command.args(["-Z", "root", "-p", "-n", "-B", "65536", "-i", interface, "-w", file])
            }
            Self::Dumpcap => command.args(["-q", "-p", "-B", "64", "-i", interface, "-w", file]),
            Self::Recorder => {
                command.args(["record", "-q", "--force", "-B", "64", "-i", interface, "-w", file])
            }
            Self::Unrestricted => command
                .args(["record", "-q", "--force", "-B", "64", "-i", interface, "-w", file])
                .args(["--sandbox", "off"]),
        };
        let running = Running::start(&mut command);
        let ready = match self {
            Self::Tcpdump => "listening on",
            Self::Dumpcap => "File: ",
            Self::Recorder | Self::Unrestricted => recorder::READY,
        };
        running.wait_for_stderr(ready, |line| line.contains(ready));
        running
    }

    /// Ends it, as Ctrl-C does.
    pub(crate) fn stop(self, running: Running) -> Output {
        running.signal(SIGINT);
        running.finish()
    }

    fn program(self) -> String {
        match self {
            Self::Tcpdump => "tcpdump".into(),
            Self::Dumpcap => "dumpcap".into(),
            Self::Recorder | Self::Unrestricted => recorder::binary(),
        }
    }
}

/// A command that runs in a namespace, on one core.
pub(crate) fn pinned(namespace: &Namespace, core: &str, program: &str) -> Command {
    let mut command = namespace.command("taskset");
    command.args(["-c", core, program]);
    command
}

/// The program `traffic`, beside this one.
pub(crate) fn traffic() -> String {
    let own = std::env::current_exe().expect("this program has a path");
    own.with_file_name("traffic").to_str().expect("our paths are UTF-8").to_string()
}
