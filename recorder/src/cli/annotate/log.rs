//! Reads a log of connections: JSON lines, ours (docs/FORMAT.md) or RustNet's.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::DateTime;
use serde::Deserialize;

use crate::attribution::log::{ConnectionLog, Entry};
use crate::decode;
use crate::model::{
    Attribution, CommandLine, Endpoint, Flow, Owner, Process, ProcessIndex, ProcessTable, Protocol, RealTime,
};
use crate::pcapng::{Record, Rewriter};

/// RustNet 1.7 notes the times of the first and the last packet, cut to microseconds.
const RUSTNET_SLACK: Duration = Duration::from_micros(1);
/// Protocols whose packets have ports, or what stands for them.
const WITH_PORTS: [Protocol; 6] =
    [Protocol::TCP, Protocol::UDP, Protocol::SCTP, Protocol::UDP_LITE, Protocol::ICMP, Protocol::ICMPV6];
/// The longest line, in bytes.
const LONGEST_LINE: u64 = 1 << 20;
/// The most entries: some 500 MiB of memory.
const MOST_ENTRIES: usize = 4_000_000;
/// The most bytes that the processes of a log may take, about.
const MOST_PROCESS_BYTES: usize = 512 << 20;

/// Why a log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// It cannot be read.
    #[error("cannot read the log {}: {source}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line makes no sense.
    #[error(
        "line {line} of the log {} makes no sense: {why}\n  each line is a JSON object with protocol, local, remote, from, \
         until and pid, as docs/FORMAT.md describes; or RustNet's", path.display()
    )]
    Line {
        /// Which file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        why: String,
    },
}

/// A log, and the processes that it names.
pub(super) struct Log {
    name: String,
    connections: ConnectionLog,
    processes: ProcessTable,
    /// What they are in the new file.
    in_file: HashMap<ProcessIndex, ProcessIndex>,
}

/// One line. The other names are RustNet's.
#[derive(Deserialize)]
struct Line {
    protocol: String,
    #[serde(alias = "local_addr")]
    local: String,
    #[serde(alias = "remote_addr")]
    remote: String,
    #[serde(alias = "first_seen")]
    from: Time,
    #[serde(alias = "last_seen")]
    until: Time,
    pid: Option<u32>,
    #[serde(alias = "process_name")]
    name: Option<String>,
    #[serde(alias = "process_executable")]
    path: Option<String>,
    #[serde(alias = "process_ppid")]
    ppid: Option<u32>,
    #[serde(alias = "process_uid")]
    uid: Option<u32>,
    start_ns: Option<u64>,
    #[serde(alias = "cgroup_path")]
    cgroup: Option<String>,
    #[serde(default, deserialize_with = "text_only")]
    container: Option<String>,
    unit: Option<String>,
    cmdline: Option<Vec<String>>,
}

/// A moment, as it can be written.
#[derive(Deserialize)]
#[serde(untagged, expecting = "a time is RFC 3339 in quotes, or nanoseconds since 1970")]
enum Time {
    Nanoseconds(u64),
    Rfc3339(String),
    /// RustNet's.
    Parts {
        secs_since_epoch: u64,
        nanos_since_epoch: u32,
    },
}

/// RustNet's container is an object with more than a name.
fn text_only<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    Ok(serde_json::Value::deserialize(from)?.as_str().map(str::to_owned))
}

/// Reads a log to its end.
///
/// # Errors
/// If it cannot be read, or a line of it makes no sense: a log that is half understood could name the wrong process.
pub(super) fn read(path: &Path) -> Result<Log, LogError> {
    let from = File::open(path).map_err(|source| LogError::Read { path: path.to_owned(), source })?;
    read_from(BufReader::new(from), path)
}

/// The lines of a log, for the fuzz target `log`: what they tell of a packet.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn owners(log: &[u8], packet: &decode::Decoded, time: RealTime) -> Option<Attribution> {
    Some(read_from(log, Path::new("log")).ok()?.connections.attribute(packet, time))
}

fn read_from(mut from: impl BufRead, path: &Path) -> Result<Log, LogError> {
    let failed = |source| LogError::Read { path: path.to_owned(), source };
    let mut processes = Interned::default();
    let mut entries = Vec::new();
    let mut bytes = Vec::new();
    for line in 1.. {
        let bad = |why: String| LogError::Line { path: path.to_owned(), line, why };
        bytes.clear();
        if (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut bytes).map_err(failed)? == 0 {
            break;
        }
        if bytes.len() as u64 == LONGEST_LINE {
            return Err(bad(format!("it is longer than {LONGEST_LINE} bytes")));
        }
        if entries.len() == MOST_ENTRIES {
            return Err(bad(format!(
                "it is the one after {MOST_ENTRIES} entries, the most there is room for"
            )));
        }
        if bytes.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let parsed: Line = serde_json::from_slice(&bytes).map_err(|error| bad(error.to_string()))?;
        entries.extend(parsed.entry(&mut processes).map_err(bad)?);
        if processes.bytes > MOST_PROCESS_BYTES {
            return Err(bad(format!(
                "the processes up to it take more than {} MiB of memory",
                MOST_PROCESS_BYTES >> 20
            )));
        }
    }
    Ok(Log {
        name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        connections: ConnectionLog::new(entries),
        processes: processes.table,
        in_file: HashMap::new(),
    })
}

impl Log {
    /// The name of the file, without its folder.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The owners of a packet, in the log's own table.
    pub(super) fn attribute(&mut self, record: &Record<'_>) -> Attribution {
        let decoded = decode::packet(record.interface.link_type, record.packet.data);
        self.connections.attribute(&decoded, record.packet.time)
    }

    /// The same owners in the table of the new file.
    pub(super) fn in_table_of<R: Read, W: Write>(
        &mut self,
        rewriter: &mut Rewriter<R, W>,
        owners: &Attribution,
    ) -> Attribution {
        let Attribution::Known { sender, receiver, both_local, found } = *owners else { return *owners };
        let Self { processes, in_file, .. } = self;
        let mut owner = |owner: Option<Owner>| {
            let Owner { process, tid } = owner?;
            let known = processes.get(process)?;
            let index = *in_file.entry(process).or_insert_with(|| rewriter.add_process(known.clone()));
            Some(Owner { process: index, tid })
        };
        Attribution::Known { sender: owner(sender), receiver: owner(receiver), both_local, found }
    }
}

/// Processes, each once.
#[derive(Default)]
struct Interned {
    table: ProcessTable,
    /// By process id, name, and start.
    known: HashMap<(u32, Vec<u8>, Option<RealTime>), ProcessIndex>,
    /// How many they take, about.
    bytes: usize,
}

impl Interned {
    /// The first line that names a process tells of it.
    fn index(&mut self, process: Process) -> ProcessIndex {
        let key = (process.pid, process.name.clone(), process.start);
        *self.known.entry(key).or_insert_with(|| {
            self.bytes += bytes_of(&process);
            self.table.push(process)
        })
    }
}

/// How much memory a process takes, about; its name is there twice.
fn bytes_of(process: &Process) -> usize {
    let Process { name, path, cgroup, container, unit, command_line, .. } = process;
    let texts = [cgroup, container, unit].into_iter().flatten().map(String::len).sum::<usize>();
    let arguments = command_line.as_ref().map_or(0, |line| line.bytes.len());
    2 * (size_of::<Process>() + name.len()) + path.as_ref().map_or(0, Vec::len) + texts + arguments
}

impl Line {
    /// The entry of a line; none for one that no packet can be told to be of.
    fn entry(self, processes: &mut Interned) -> Result<Option<Entry>, String> {
        let slack = match (&self.from, &self.until) {
            (Time::Parts { .. }, _) | (_, Time::Parts { .. }) => RUSTNET_SLACK,
            _ => Duration::ZERO,
        };
        let (from, until) = (self.from.time()?, self.until.time()?);
        if until < from {
            return Err("it ends before it begins".to_owned());
        }
        let protocol = match protocol(&self.protocol) {
            Some(protocol) => protocol,
            // Names of RustNet's that are new here: whatever it is, no packet is taken for it.
            None if slack > Duration::ZERO => return Ok(None),
            None => return Err(format!("`{}` is no protocol", self.protocol)),
        };
        let (local, remote) = (endpoint(&self.local)?, endpoint(&self.remote)?);
        // Port 0 here is what a packet has whose ports are not known: a later fragment, an ICMP error.
        if local.port == 0 && WITH_PORTS.contains(&protocol) {
            return Ok(None);
        }
        let process = self.process().map(|process| processes.index(process));
        let flow = Flow { protocol, local, remote };
        Ok(Some(Entry { flow, from, until, slack, process }))
    }

    fn process(self) -> Option<Process> {
        // Nobody has the process id 0.
        let pid = self.pid.filter(|pid| *pid != 0)?;
        let command_line = self.cmdline.map(|arguments| CommandLine {
            bytes: arguments.iter().flat_map(|argument| [argument.as_bytes(), b"\0"].concat()).collect(),
            is_cut: false,
        });
        Some(Process {
            path: self.path.map(String::into_bytes),
            parent_pid: self.ppid,
            uid: self.uid,
            start: self.start_ns.map(RealTime::from_ns),
            cgroup: self.cgroup,
            container: self.container,
            unit: self.unit,
            command_line,
            ..Process::new(pid, self.name.unwrap_or_default())
        })
    }
}

impl Time {
    fn time(&self) -> Result<RealTime, String> {
        let ns = match self {
            Self::Nanoseconds(ns) => Some(*ns),
            Self::Rfc3339(text) => {
                let time =
                    DateTime::parse_from_rfc3339(text).map_err(|error| format!("`{text}`: {error}"))?;
                time.timestamp_nanos_opt().and_then(|ns| u64::try_from(ns).ok())
            }
            Self::Parts { secs_since_epoch, nanos_since_epoch } => secs_since_epoch
                .checked_mul(1_000_000_000)
                .and_then(|ns| ns.checked_add(u64::from(*nanos_since_epoch))),
        };
        ns.map(RealTime::from_ns).ok_or_else(|| "a time is before 1970 or after 2262".to_owned())
    }
}

/// A protocol by name or number.
fn protocol(name: &str) -> Option<Protocol> {
    Some(match name.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::TCP,
        "udp" => Protocol::UDP,
        "sctp" => Protocol::SCTP,
        "udplite" | "udp-lite" => Protocol::UDP_LITE,
        "icmp" => Protocol::ICMP,
        "icmpv6" => Protocol::ICMPV6,
        other => Protocol(other.parse().ok()?),
    })
}

/// `10.0.0.1:443`, `[2001:db8::1]:443`; an address alone has port 0.
fn endpoint(text: &str) -> Result<Endpoint, String> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(Endpoint::new(address.ip(), address.port()));
    }
    let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is no address with a port"))?;
    Ok(Endpoint::new(address, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(line: &str) -> Result<Option<Entry>, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        line.entry(&mut Interned::default())
    }

    const OURS: &str = r#"{"protocol":"tcp","local":"10.0.0.1:1","remote":"10.0.0.2:2","from":"1970-01-01T00:00:01.5Z","until":2000000000,"pid":5}"#;

    #[test]
    fn a_line_of_ours_is_exact_and_one_of_rustnets_is_a_microsecond_longer() {
        let ours = entry(OURS).unwrap().unwrap();
        assert_eq!((ours.from.as_ns(), ours.until.as_ns()), (1_500_000_000, 2_000_000_000));
        assert_eq!((ours.slack, ours.process), (Duration::ZERO, Some(ProcessIndex(0))));
        assert_eq!(ours.flow.to_string(), "TCP 10.0.0.1:1 -> 10.0.0.2:2");
        let theirs = r#"{"protocol":"UDP","local_addr":"[::1]:1","remote_addr":"[::2]:2","first_seen":{"secs_since_epoch":1,"nanos_since_epoch":5},"last_seen":{"secs_since_epoch":2,"nanos_since_epoch":0},"pid":null}"#;
        let theirs = entry(theirs).unwrap().unwrap();
        assert_eq!((theirs.from.as_ns(), theirs.until.as_ns()), (1_000_000_005, 2_000_000_000));
        assert_eq!((theirs.slack, theirs.process), (Duration::from_micros(1), None));
        assert_eq!(theirs.flow.to_string(), "UDP [::1]:1 -> [::2]:2");
    }

    #[test]
    fn what_has_no_ports_names_nobody_where_packets_have_some() {
        for protocol in ["tcp", "udp", "sctp", "UDP-Lite", "ICMP", "icmpv6"] {
            let line = OURS.replace("tcp", protocol).replace("10.0.0.1:1", "10.0.0.1");
            assert_eq!(entry(&line), Ok(None), "{protocol}");
        }
        let gre =
            OURS.replace("tcp", "47").replace("10.0.0.1:1", "10.0.0.1").replace("10.0.0.2:2", "10.0.0.2");
        assert_eq!(entry(&gre).unwrap().unwrap().flow.protocol, Protocol(47));
        assert_eq!(entry(&OURS.replace("tcp", "quic")), Err("`quic` is no protocol".to_owned()));
    }

    #[test]
    fn a_log_of_processes_with_endless_names_is_refused_before_it_fills_the_memory() {
        // As a compressed pipe might give them: what is read is made here.
        struct Endless {
            number: u32,
            name: String,
            rest: Vec<u8>,
        }
        impl Read for Endless {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                if self.rest.is_empty() {
                    self.number += 1;
                    let name = format!("\"pid\":{},\"name\":\"x\",\"cgroup\":\"{}\"", self.number, self.name);
                    self.rest = (OURS.replace("\"pid\":5", &name) + "\n").into_bytes();
                }
                let length = into.len().min(self.rest.len());
                into[..length].copy_from_slice(&self.rest[..length]);
                self.rest.drain(..length);
                Ok(length)
            }
        }
        let endless = Endless { number: 0, name: "a".repeat(900_000), rest: Vec::new() };
        let from = BufReader::with_capacity(1 << 20, endless);
        let error = read_from(from, Path::new("log")).err().unwrap().to_string();
        assert!(error.contains("the processes up to it take more than 512 MiB of memory"), "{error}");
    }

    #[test]
    fn the_process_id_0_is_nobodys_and_times_beyond_the_clock_are_told() {
        assert_eq!(entry(&OURS.replace("\"pid\":5", "\"pid\":0")).unwrap().unwrap().process, None);
        assert_eq!(entry(&OURS.replace(",\"pid\":5", "")).unwrap().unwrap().process, None);
        let early = entry(&OURS.replace("1970-01-01", "1960-01-01"));
        assert_eq!(early, Err("a time is before 1970 or after 2262".to_owned()));
    }
}
