//! The recorder, as a user runs it.

use std::path::PathBuf;
use std::process::Command;

use crate::namespace::Namespace;
use crate::process::{Output, Running, must};

/// What the recorder says on standard error when it is ready begins with this.
pub const READY: &str = "recording on ";

/// The binary: the one that the environment variable RECORDER names, or the one beside the running program.
pub fn binary() -> String {
    let named = std::env::var_os("RECORDER").map(PathBuf::from);
    let path = named.or_else(beside_this_program);
    let path =
        path.unwrap_or_else(|| panic!("there is no recorder binary: run `cargo build`, or set RECORDER"));
    path.to_str().expect("our paths are UTF-8").to_string()
}

fn beside_this_program() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    own.ancestors().skip(1).take(2).map(|folder| folder.join("recorder")).find(|path| path.is_file())
}

/// `recorder record ARGUMENTS` in a namespace.
pub fn record(namespace: &Namespace, arguments: &[&str]) -> Command {
    let mut command = namespace.command(binary());
    command.arg("record").args(arguments);
    command
}

/// `recorder ARGUMENTS`, which must succeed; gives its standard output.
pub fn ask(arguments: &[&str]) -> String {
    must(Command::new(binary()).args(arguments)).stdout
}

/// A recording in progress.
pub struct Recording {
    running: Running,
}

impl Recording {
    /// Starts the command, and waits until it records.
    pub fn start(command: &mut Command) -> Self {
        let running = Running::start(command);
        running
            .wait_for_stderr(&format!("a line that starts with '{READY}'"), |line| line.starts_with(READY));
        Self { running }
    }

    /// The process.
    pub const fn running(&self) -> &Running {
        &self.running
    }

    /// Ends it with SIGINT, as Ctrl-C does.
    pub fn stop(self) -> Output {
        self.stop_with(libc::SIGINT)
    }

    /// Ends it with a signal.
    pub fn stop_with(self, signal: i32) -> Output {
        self.running.signal(signal);
        self.running.finish()
    }

    /// Waits until it ends by itself.
    pub fn finish(self) -> Output {
        self.running.finish()
    }
}
