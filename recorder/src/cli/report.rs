//! `recorder record --json`: the final report as one object on one line (docs/FORMAT.md has its keys).

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use serde::Serialize;

use super::text;
use crate::model::{Found, InterfaceCounts, Process, Reason};
use crate::pcapng::annotation::{escape_name, escape_text};
use crate::pipeline::{Finished, Why};
#[cfg(target_os = "linux")]
use crate::sandbox::Layer;

/// How many processes are named, those with the most packets.
const BUSIEST: usize = 10;

#[derive(Serialize)]
struct Report {
    ended: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
    exit_code: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    command: Option<CommandEnd>,
    files: Vec<String>,
    files_written: u64,
    problems: u64,
    start_ns: u64,
    end_ns: u64,
    packets: u64,
    bytes: u64,
    received: u64,
    dropped_by_kernel: u64,
    dropped_by_recorder: u64,
    not_selected: u64,
    socket_events_lost: u64,
    attributed_packets: u64,
    found: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<&'static str, u64>,
    #[cfg(target_os = "linux")]
    sandbox: SandboxReport,
    interfaces: Vec<InterfaceReport>,
    busiest: Vec<ProcessReport>,
}

/// How the recorded command ended.
#[derive(Serialize)]
struct CommandEnd {
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_status: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    signal: Option<i32>,
}

/// What held the recorder back, and what did not, with the reason.
#[cfg(target_os = "linux")]
#[derive(Serialize)]
struct SandboxReport {
    holds: Vec<&'static str>,
    missing: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct InterfaceReport {
    name: String,
    packets: u64,
    received: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_by_kernel: Option<u64>,
    dropped_by_recorder: u64,
}

#[derive(Serialize)]
struct ProcessReport {
    pid: u32,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    packets: u64,
}

/// The report on one line, without the newline; `exit_code` is that of the recorder.
///
/// # Errors
/// None that is known: everything in it can be written as JSON.
pub fn line(finished: &Finished, exit_code: u8) -> serde_json::Result<String> {
    let Finished { statistics, .. } = finished;
    let counts = &statistics.attribution;
    let total = |of: fn(&InterfaceCounts) -> u64| statistics.interfaces.iter().map(of).sum::<u64>();
    let packets = total(|counts| counts.written);
    let busiest = finished.busiest(BUSIEST).into_iter();
    let busiest = busiest.filter_map(|(index, packets)| Some((finished.processes.get(index)?, packets)));
    let report = Report {
        ended: ended(finished.why),
        signal: match finished.why {
            Why::Signal(signal) => Some(signal),
            _ => None,
        },
        exit_code,
        failure: finished
            .failure
            .as_ref()
            .filter(|_| finished.why != Why::ReaderGone)
            .map(ToString::to_string),
        command: finished
            .command
            .map(|status| CommandEnd { exit_status: status.code(), signal: status.signal() }),
        files: finished.files.iter().map(|path| path.to_string_lossy().into_owned()).collect(),
        files_written: finished.files_written,
        problems: finished.problems,
        start_ns: statistics.start.as_ns(),
        end_ns: statistics.end.as_ns(),
        packets,
        bytes: finished.bytes,
        received: total(|counts| counts.received).max(packets),
        dropped_by_kernel: statistics.dropped_by_kernel,
        dropped_by_recorder: total(|counts| counts.dropped_by_us),
        not_selected: statistics.not_selected.total(),
        socket_events_lost: statistics.events_lost,
        attributed_packets: counts.attributed(),
        found: numbers(Found::ALL.map(|found| (found.name(), counts.found(found)))),
        reasons: numbers(Reason::ALL.map(|reason| (reason.name(), counts.without(reason)))),
        #[cfg(target_os = "linux")]
        sandbox: SandboxReport {
            holds: finished.sandbox.holding().map(Layer::name).collect(),
            missing: finished
                .sandbox
                .missing()
                .iter()
                .map(|(layer, why)| (layer.name(), why.clone()))
                .collect(),
        },
        interfaces: finished
            .interfaces
            .iter()
            .zip(&statistics.interfaces)
            .map(|(name, counts)| interface(name, counts))
            .collect(),
        busiest: busiest.map(|(of, packets)| process(of, packets)).collect(),
    };
    serde_json::to_string(&report).map(text::json)
}

/// Why it ended, in the words of the report.
const fn ended(why: Why) -> &'static str {
    match why {
        Why::Signal(_) => "signal",
        Why::CommandEnded => "command ended",
        Why::Limit => "limit",
        Why::InterfacesGone => "no interface left",
        Why::ReaderGone => "reader gone",
        Why::Failure => "failure",
    }
}

/// Those that are not 0.
fn numbers<const N: usize>(all: [(&'static str, u64); N]) -> BTreeMap<&'static str, u64> {
    all.into_iter().filter(|(_, count)| *count > 0).collect()
}

fn interface(name: &str, counts: &InterfaceCounts) -> InterfaceReport {
    InterfaceReport {
        name: name.to_owned(),
        packets: counts.written,
        received: counts.received,
        dropped_by_kernel: counts.dropped_by_kernel,
        dropped_by_recorder: counts.dropped_by_us,
    }
}

fn process(process: &Process, packets: u64) -> ProcessReport {
    ProcessReport {
        pid: process.pid,
        name: escape_name(&process.name),
        path: process.path.as_ref().map(|path| escape_text(path)),
        packets,
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitStatus;

    use super::*;
    use crate::model::{Attribution, Owner, ProcessIndex, ProcessTable, RealTime, Statistics};

    fn finished() -> Finished {
        let mut processes = ProcessTable::default();
        for (pid, name) in [(1, "idle"), (4242, "curl"), (99, "a\n[b")] {
            processes.push(Process::new(pid, name));
        }
        let mut statistics = Statistics {
            start: RealTime::from_ns(1_700_000_000_000_000_000),
            end: RealTime::from_ns(1_700_000_001_000_000_000),
            dropped_by_kernel: 2,
            events_lost: 1,
            ..Statistics::default()
        };
        let counts = InterfaceCounts { received: 5, dropped_by_kernel: None, dropped_by_us: 0, written: 3 };
        statistics.interfaces.push(counts);
        statistics.not_selected.add_without(Reason::NoSocket, 4);
        let owner = Owner { process: ProcessIndex(1), tid: 0 };
        let known = Attribution::Known {
            sender: Some(owner),
            receiver: None,
            both_local: false,
            found: Found::Snapshot,
        };
        for attribution in [known, known, Attribution::Unknown(Reason::NotIp)] {
            statistics.attribution.count(&attribution);
        }
        Finished {
            path: "a.pcapng".into(),
            bytes: 1000,
            files_written: 2,
            files: vec!["a.pcapng".into()],
            problems: 0,
            is_gone: false,
            statistics,
            interfaces: vec!["lo".to_owned()],
            by_process: vec![0, 2, 1],
            processes,
            why: Why::Signal(2),
            command: Some(ExitStatus::from_raw(9)),
            failure: None,
            #[cfg(target_os = "linux")]
            sandbox: crate::sandbox::Status::default(),
        }
    }

    fn report(finished: &Finished) -> serde_json::Value {
        let line = line(finished, 1).unwrap();
        assert!(!line.contains('\n'), "{line}");
        serde_json::from_str(&line).unwrap()
    }

    #[test]
    fn everything_that_was_counted_is_told() {
        let expected = serde_json::json!({
            "ended": "signal", "signal": 2, "exit_code": 1,
            "command": {"signal": 9},
            "files": ["a.pcapng"], "files_written": 2, "problems": 0,
            "start_ns": 1_700_000_000_000_000_000_u64, "end_ns": 1_700_000_001_000_000_000_u64,
            "packets": 3, "bytes": 1000, "received": 5, "dropped_by_kernel": 2, "dropped_by_recorder": 0,
            "not_selected": 4, "socket_events_lost": 1,
            "sandbox": {"holds": ["no capabilities", "no_new_privs", "Landlock", "seccomp"], "missing": {}},
            "attributed_packets": 2, "found": {"by snapshot": 2}, "reasons": {"not IP": 1},
            "interfaces": [{"name": "lo", "packets": 3, "received": 5, "dropped_by_recorder": 0}],
            "busiest": [
                {"pid": 4242, "name": "curl", "packets": 2},
                {"pid": 99, "name": r"a\x0a\x5bb", "packets": 1},
            ],
        });
        assert_eq!(report(&finished()), expected);
    }

    #[test]
    fn a_failure_is_told_but_not_that_the_reader_has_left() {
        let failed =
            |why, text: &str| Finished { why, failure: Some(std::io::Error::other(text)), ..finished() };
        let report_of = |why| report(&failed(why, "disk full"));
        assert_eq!(report_of(Why::Failure)["failure"], "disk full");
        assert_eq!(report_of(Why::Failure)["ended"], "failure");
        assert_eq!(report_of(Why::ReaderGone).get("failure"), None);
    }
}
