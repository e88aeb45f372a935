//! What the recorded programs said about themselves.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::Value;

/// One socket, or one turn of use of a socket, of one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truth {
    /// The process.
    pub pid: u32,
    /// The thread.
    pub tid: u32,
    /// The name of the program.
    pub name: String,
    /// `client`, `server`, `listener`, `heir`, `refused`.
    pub role: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Its end; the unspecified address stands for any.
    pub local: SocketAddr,
    /// The other end; none: any.
    pub remote: Option<SocketAddr>,
    /// Nanoseconds since the epoch: before the first packet of a client, after accept for a server.
    pub start_ns: u64,
    /// Nanoseconds since the epoch: after close.
    pub end_ns: u64,
}

impl Truth {
    /// How the recorder names this process.
    pub fn label(&self) -> String {
        format!("{}[{}]", self.name, self.pid)
    }
}

/// All lines of a log.
pub fn read(log: impl AsRef<Path>) -> Vec<Truth> {
    let log = log.as_ref();
    let text =
        fs::read_to_string(log).unwrap_or_else(|error| panic!("cannot read {}: {error}", log.display()));
    text.lines().map(|line| parse(line).unwrap_or_else(|| panic!("not a line of truth: {line}"))).collect()
}

fn parse(line: &str) -> Option<Truth> {
    let value: Value = serde_json::from_str(line).ok()?;
    let text = |key: &str| value[key].as_str().map(str::to_string);
    let number = |key: &str| value[key].as_u64();
    Some(Truth {
        pid: number("pid")? as u32,
        tid: number("tid")? as u32,
        name: text("name")?,
        role: text("role")?,
        protocol: text("protocol")?,
        local: canonical(text("local")?.parse().ok()?),
        remote: text("remote")?.parse().ok().map(canonical),
        start_ns: number("start_ns")?,
        end_ns: number("end_ns")?,
    })
}

/// IPv4 addresses as such, also those that a dual-stack socket gives as ::ffff:a.b.c.d.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The one line with this role.
pub fn only<'a>(truths: &'a [Truth], role: &str) -> &'a Truth {
    let found: Vec<&Truth> = truths.iter().filter(|truth| truth.role == role).collect();
    assert_eq!(found.len(), 1, "expected one line with role {role}, got {truths:#?}");
    found[0]
}
