//! The loop with what a Mac would give, in the place of a Mac.

use std::path::Path;

use super::*;
use crate::model::{Direction, Found, LinkType};
use crate::pcapng::{Annotate, Reader};
use crate::pipeline::{Limits, Rotation};
use crate::source::CaptureOptions;

/// Gives what was captured, some at each look, and ends.
struct Mac {
    queue: Queue,
    captured: Vec<Vec<Vec<u8>>>,
}

impl Live for Mac {
    fn wait(&mut self) -> io::Result<bool> {
        let Some(some) = self.captured.pop() else { return Ok(false) };
        for bytes in some {
            self.queue.push(now(), &bytes, bytes.len() as u32);
        }
        Ok(true)
    }

    fn queue(&mut self) -> &mut Queue {
        &mut self.queue
    }

    fn dropped(&mut self) -> io::Result<u64> {
        Ok(3)
    }
}

/// Keeps what it is told.
#[derive(Default)]
struct Listener {
    notes: Vec<String>,
}

impl Observer for Listener {
    fn ready(&mut self, interfaces: &str, attribution: &Attributing) {
        assert!(matches!(attribution, Attributing::Pktap), "{attribution:?}");
        self.notes.push(format!("ready on {interfaces}"));
    }

    #[cfg(target_os = "linux")]
    fn restricted(&mut self, _: crate::sandbox::Mode, _: &crate::sandbox::Status) {}

    fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn problem(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn progress(&mut self, _: &Progress<'_>) {}

    fn asked(&mut self, _: &Progress<'_>) {}
}

fn plan(path: &Path) -> Plan {
    Plan {
        capture: CaptureOptions::default(),
        attribution: AttributionMode::Auto,
        processes: None,
        with_arguments: false,
        keep_events: false,
        event_buffer_bytes: 0,
        annotate: Annotate::default(),
        path: path.to_owned(),
        compression: None,
        rotation: None,
        after_file: None,
        force: false,
        invoker: None,
        comments: Vec::new(),
        limits: Limits::default(),
        command: Vec::new(),
        #[cfg(target_os = "linux")]
        sandbox: crate::sandbox::Mode::Off,
    }
}

/// Behind a header of version 1: outgoing on en0 with an Ethernet header, or incoming on lo0 with an address family.
fn captured(is_loopback: bool, pid: i32, name: &str) -> Vec<u8> {
    let ip =
        [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0x9c, 0x40, 0, 53, 0, 8, 0, 0];
    let mut bytes = vec![0; 156];
    let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
    put(0, &156_u32.to_le_bytes());
    put(4, &1_u32.to_le_bytes());
    put(8, &u32::from(!is_loopback).to_le_bytes());
    put(12, if is_loopback { b"lo0" } else { b"en0" });
    put(36, &if is_loopback { 1_u32 } else { 2 }.to_le_bytes());
    put(52, &pid.to_le_bytes());
    put(56, name.as_bytes());
    put(84, &(-1_i32).to_le_bytes());
    bytes.extend_from_slice(if is_loopback {
        &[2, 0, 0, 0][..]
    } else {
        &[2, 2, 2, 2, 2, 2, 4, 4, 4, 4, 4, 4, 8, 0]
    });
    bytes.extend_from_slice(&ip);
    bytes
}

fn run(plan: &Plan, captured: Vec<Vec<Vec<u8>>>) -> (Finished, Listener) {
    let mut listener = Listener::default();
    let mac = Mac { queue: Queue::new(None, 262_144), captured };
    let finished = record_from(mac, plan, &Signals::install().unwrap(), &mut listener).unwrap();
    (finished, listener)
}

/// The packets of a file: interface, link type, direction, and their process.
fn packets(path: &Path) -> Vec<(String, LinkType, Direction, Option<String>)> {
    let mut reader = Reader::new(std::fs::File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(record) = reader.next_packet().unwrap() {
        let process = match record.attribution {
            Attribution::Known { sender, receiver, .. } => sender.or(receiver),
            Attribution::Unknown(_) => None,
        };
        let process = process.and_then(|owner| record.processes.get(owner.process));
        let process =
            process.map(|process| format!("{}[{}]", String::from_utf8_lossy(&process.name), process.pid));
        let interface = record.interface;
        packets.push((interface.name.clone(), interface.link_type, record.packet.direction, process));
    }
    packets
}

#[test]
fn the_file_has_the_packets_behind_the_headers_and_their_processes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let some = vec![captured(false, 512, "curl"), captured(true, -1, ""), captured(true, 99, "nginx")];
    let (finished, listener) = run(&plan(&path), vec![some]);
    assert_eq!((finished.why, finished.failure.map(|error| error.to_string())), (Why::InterfacesGone, None));
    assert_eq!(listener.notes, ["ready on any"]);
    let expected = |interface: &str, link_type, direction, process: Option<&str>| {
        (interface.to_owned(), LinkType(link_type), direction, process.map(str::to_owned))
    };
    assert_eq!(
        packets(&path),
        [
            expected("en0", 1, Direction::Outbound, Some("curl[512]")),
            expected("lo0", 0, Direction::Inbound, None),
            expected("lo0", 0, Direction::Inbound, Some("nginx[99]")),
        ]
    );
    let statistics = finished.statistics;
    assert_eq!(statistics.attribution.found(Found::Pktap), 2);
    assert_eq!(statistics.attribution.without(Reason::NotTold), 1);
    assert_eq!(statistics.dropped_by_kernel, 3);
    let written: Vec<_> =
        statistics.interfaces.iter().map(|counts| (counts.received, counts.written)).collect();
    assert_eq!(written, [(1, 1), (2, 2)]);
    assert_eq!(finished.by_process, [1, 1]);
}

#[test]
fn limits_and_several_files_are_as_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let many = || vec![(0..10).map(|pid| captured(false, pid + 1, "a")).collect::<Vec<_>>(); 2];
    let limited = Plan { limits: Limits { packets: Some(7), ..Limits::default() }, ..plan(&path) };
    let (finished, _) = run(&limited, many());
    assert_eq!((finished.why, packets(&path).len()), (Why::Limit, 7));

    let rotation = Some(Rotation { packets: Some(8), ..Rotation::default() });
    let (finished, _) = run(&Plan { rotation, ..plan(&folder.path().join("b.pcapng")) }, many());
    assert_eq!(finished.failure.map(|error| error.to_string()), None);
    let counts: Vec<_> = finished.files.iter().map(|file| packets(file).len()).collect();
    assert_eq!(counts, [8, 8, 4]);
}

#[test]
fn only_the_chosen_processes_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.pcapng");
    let expr = crate::selection::parse("name=curl", &|_| None).unwrap();
    let some = vec![captured(false, 1, "curl"), captured(false, 2, "ssh"), captured(true, -1, "")];
    let (finished, _) = run(&Plan { processes: Some(expr), ..plan(&path) }, vec![some]);
    assert_eq!(packets(&path).len(), 1);
    assert_eq!(finished.statistics.not_selected.total(), 2);
}

#[test]
fn what_has_no_header_is_told_as_a_loss() {
    let folder = tempfile::tempdir().unwrap();
    let (finished, _) =
        run(&plan(&folder.path().join("a.pcapng")), vec![vec![vec![0; 200], captured(false, 1, "a")]]);
    let error = finished.failure.unwrap().to_string();
    assert!(error.starts_with("1 packets are lost: "), "{error}");
}

#[test]
fn what_cannot_be_done_is_refused_before_anything_is_opened() {
    let plan = plan(Path::new("/nonexistent/a.pcapng"));
    assert!(refuse(&plan).is_ok());
    for refused in [
        Plan { command: vec!["curl".into()], ..plan.clone() },
        Plan { attribution: AttributionMode::Ebpf, ..plan.clone() },
        Plan { with_arguments: true, ..plan },
    ] {
        let error = refuse(&refused).unwrap_err();
        assert!(matches!(error, Error::NotHere { .. }) && error.remedy().is_some(), "{error}");
    }
}
