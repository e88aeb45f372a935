//! Command lines: first the positional arguments, then `--option VALUE` and `--flag`.

use std::net::SocketAddr;
use std::path::Path;
use std::thread;
use std::time::Duration;

pub(crate) struct Options {
    arguments: Vec<String>,
}

impl Options {
    pub(crate) fn new(arguments: Vec<String>) -> Self {
        Self { arguments }
    }

    /// The address and port of the first two arguments.
    pub(crate) fn peer(&self) -> SocketAddr {
        let address = self.argument(0).parse().expect("ADDR is not an IP address");
        let port = self.argument(1).parse().expect("PORT is not a number");
        SocketAddr::new(address, port)
    }

    /// Whether the flag is there.
    pub(crate) fn has(&self, flag: &str) -> bool {
        self.arguments.iter().any(|argument| argument == flag)
    }

    /// What follows the option.
    pub(crate) fn value(&self, option: &str) -> Option<&str> {
        let at = self.arguments.iter().position(|argument| argument == option)?;
        self.arguments.get(at + 1).map(String::as_str)
    }

    /// What follows an option that must be there.
    pub(crate) fn required(&self, option: &str) -> &str {
        self.value(option).unwrap_or_else(|| panic!("{option} is missing"))
    }

    /// The number that follows the option.
    pub(crate) fn number(&self, option: &str) -> Option<u64> {
        self.value(option)
            .map(|value| value.parse().unwrap_or_else(|_| panic!("{option} {value}: not a number")))
    }

    /// The address and port that follow the option.
    pub(crate) fn address(&self, option: &str) -> Option<SocketAddr> {
        self.value(option)
            .map(|value| value.parse().unwrap_or_else(|_| panic!("{option} {value}: not ADDR:PORT")))
    }

    /// The file for truth lines; standard output without one.
    pub(crate) fn log(&self) -> Option<&str> {
        self.value("--log")
    }

    /// Everything behind the first `--`.
    pub(crate) fn rest(&self) -> &[String] {
        let at = self.arguments.iter().position(|argument| argument == "--");
        at.map_or(&[], |at| &self.arguments[at + 1..])
    }

    /// Waits until the file that follows this option exists; not at all without the option.
    pub(crate) fn wait_for_gate(&self, option: &str) {
        let Some(gate) = self.value(option) else { return };
        while !Path::new(gate).exists() {
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Pauses for as many milliseconds as follow the option: where the pause itself is what is tested.
    pub(crate) fn pause(&self, option: &str) {
        if let Some(milliseconds) = self.number(option) {
            thread::sleep(Duration::from_millis(milliseconds));
        }
    }

    /// With `--when FILE`: prints the port, and waits until the file is there.
    pub(crate) fn wait(&self, local: SocketAddr) {
        if let Some(file) = self.value("--when") {
            println!("{}", local.port());
            wait_for(file);
        }
    }

    /// With `--until FILE`: keeps the socket open until the file is there.
    pub(crate) fn linger(&self) {
        if let Some(file) = self.value("--until") {
            wait_for(file);
        }
    }

    pub(crate) fn argument(&self, index: usize) -> &str {
        self.arguments.get(index).unwrap_or_else(|| panic!("argument {} is missing", index + 1))
    }
}

fn wait_for(file: &str) {
    while !std::path::Path::new(file).exists() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
