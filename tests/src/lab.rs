//! Whether this machine can run a test, and the folder and programs a test works with.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use tempfile::TempDir;

use crate::clock::BOOT_TIME;
use crate::namespace::Namespace;
use crate::process::Running;
use crate::sys;

/// Names of programs that are hard to spell.
pub const ODD_NAMES: [&[u8]; 12] = [
    b"fifteen-letters",
    b"sixteen-letters-",
    b"a-client-whose-name-has-forty-characters",
    b"two words",
    b" edges ",
    b"curl[1] > sshd",
    b"line\nbreak",
    b"tab\tand\x7f",
    b"back\\slash",
    b"not-utf8-\xff\xfe\xc3",
    "gr\u{fc}\u{df}e-\u{65e5}\u{672c}".as_bytes(),
    b"?",
];

/// Whether this machine can run the test: root, and these tools. If not, says so and why; in CI (CI=true) panics, for
/// there nothing may be skipped.
pub fn machine_allows(tools: &[&str]) -> bool {
    let no_root = (!sys::is_root()).then(|| "it needs root".to_owned());
    goes_on(no_root.or_else(|| missing(tools)))
}

/// The same for a test that does not need root.
pub fn machine_has(tools: &[&str]) -> bool {
    goes_on(missing(tools))
}

/// Whether there is no reason to skip the test.
fn goes_on(reason: Option<String>) -> bool {
    let Some(reason) = reason else { return true };
    assert!(!in_ci(), "in CI nothing is skipped, but {reason}");
    say(&format!("skipped: {}: {reason}", test_name()));
    false
}

/// Whether this is CI (CI=true), where nothing is skipped.
pub fn in_ci() -> bool {
    std::env::var("CI").as_deref() == Ok("true")
}

fn missing(tools: &[&str]) -> Option<String> {
    let missing: Vec<&str> = tools.iter().copied().filter(|tool| !has_tool(tool)).collect();
    (!missing.is_empty()).then(|| format!("{} not installed; run tests/install-deps", missing.join(", ")))
}

/// Whether a program is on the path.
pub fn has_tool(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

/// The name of the running test.
pub fn test_name() -> String {
    thread::current().name().unwrap_or("main").to_string()
}

/// Says something past the test runner, which hides what successful tests print.
pub fn say(text: &str) {
    // Standard error may be closed; then nobody is listening.
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// The folder of one test, and the programs in it.
pub struct Lab {
    folder: TempDir,
    traffic: PathBuf,
    is_by_boot_time: bool,
}

impl Lab {
    /// A new folder. `traffic` is the binary that the programs are copies of.
    pub fn new(traffic: impl Into<PathBuf>) -> Self {
        let folder = TempDir::with_prefix("recorder-test-").expect("cannot make a temporary folder");
        Self { folder, traffic: traffic.into(), is_by_boot_time: false }
    }

    /// The same where the time of day will be set: the programs tell times since the machine was started.
    pub fn by_boot_time(traffic: impl Into<PathBuf>) -> Self {
        Self { is_by_boot_time: true, ..Self::new(traffic) }
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A path in the folder, as an argument.
    pub fn text(&self, name: impl AsRef<Path>) -> String {
        text(&self.path(name))
    }

    /// The program `traffic` under another name, which is then its process's name.
    pub fn program(&self, name: &str) -> String {
        self.adopt(&self.traffic, name)
    }

    /// The same under a name that need not be text.
    pub fn program_named(&self, name: impl AsRef<Path>) -> PathBuf {
        self.copy(&self.traffic, name)
    }

    /// Another program, in the folder under this name.
    pub fn adopt(&self, program: impl AsRef<Path>, name: &str) -> String {
        text(&self.copy(program, name))
    }

    fn copy(&self, program: impl AsRef<Path>, name: impl AsRef<Path>) -> PathBuf {
        let path = self.path(name);
        if !path.exists() && fs::hard_link(&program, &path).is_err() {
            fs::copy(&program, &path).expect("cannot copy the program");
        }
        path
    }

    /// Lets every user into the folder, and write there.
    pub fn open_to_all(&self) {
        let all = fs::Permissions::from_mode(0o777);
        fs::set_permissions(self.folder.path(), all).expect("cannot change the mode of the folder");
    }

    /// A command that runs `traffic` under another name in a namespace, with its truth in the log.
    pub fn command(&self, namespace: &Namespace, name: &str, arguments: &[&str]) -> Command {
        let mut command = namespace.command(self.program(name));
        command.args(arguments).args(["--log", &self.log()]);
        if self.is_by_boot_time {
            command.env(BOOT_TIME, "1");
        }
        command
    }

    /// The file in which all programs write their truth.
    pub fn log(&self) -> String {
        self.text("truth.jsonl")
    }

    /// Starts a server in a namespace, and waits until it has told its port.
    pub fn server(&self, namespace: &Namespace, name: &str, arguments: &[&str]) -> Server {
        let running = Running::start(&mut self.command(namespace, name, arguments));
        let port = running.wait_for_stdout("a port", |line| line.parse::<u16>().is_ok());
        Server { port, running }
    }
}

fn text(path: &Path) -> String {
    path.to_str().expect("our paths are UTF-8").to_string()
}

/// A server that runs.
pub struct Server {
    /// Its port.
    pub port: String,
    /// The process.
    pub running: Running,
}

impl Server {
    /// Its process id.
    pub const fn pid(&self) -> u32 {
        self.running.pid()
    }
}
