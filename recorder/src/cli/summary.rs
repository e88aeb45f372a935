//! `recorder summary FILE`: who sent and received how much, and how complete the attribution is.

use std::collections::HashMap;
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::{Error, ignore_broken_pipe, open, text};
use crate::decode::{self, Decoded};
use crate::model::{Attribution, Owner, ProcessIndex, ProcessTable, RealTime, Reason, Statistics};
use crate::pcapng::Record;
use crate::pcapng::annotation::{escape_name, escape_text};

/// Arguments of `recorder summary`.
#[derive(Clone, Debug, clap::Args)]
pub struct SummaryArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// Print one JSON object (docs/FORMAT.md)
    #[arg(long)]
    pub json: bool,
}

/// Prints what each process sent and received, then how complete that is.
///
/// # Errors
/// If the file cannot be read to its end (what was read is summed up all the same), or `out` not written.
pub fn run(args: &SummaryArgs, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let mut reader = open(&args.file)?;
    let mut totals = Totals::default();
    let failure = loop {
        match reader.next_packet() {
            Ok(Some(record)) => totals.count(&record),
            Ok(None) => break None,
            Err(source) => break Some(Error::Read { path: args.file.clone(), source }),
        }
    };
    let rows = totals.rows(reader.processes());
    let statistics = reader.statistics();
    let printed = if args.json {
        json(out, &totals, &rows, statistics.as_ref())
    } else {
        human(out, &totals, &rows, statistics.as_ref())
    };
    ignore_broken_pipe(printed.and_then(|()| out.flush()))?;
    failure.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Packets, and their bytes on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Volume {
    packets: u64,
    bytes: u64,
}

impl Volume {
    fn add(&mut self, bytes: u32) {
        self.packets += 1;
        self.bytes += u64::from(bytes);
    }
}

/// What one process did.
#[derive(Debug)]
struct Traffic {
    sent: Volume,
    received: Volume,
    /// Packets by the address of the other end.
    peers: HashMap<IpAddr, u64>,
    first: RealTime,
    last: RealTime,
}

#[derive(Debug, Default)]
struct Totals {
    all: Volume,
    /// Packets without a process.
    nobody: Volume,
    by_process: HashMap<ProcessIndex, Traffic>,
}

impl Totals {
    fn count(&mut self, record: &Record<'_>) {
        self.all.add(record.packet.original_length);
        let (sender, receiver) = match record.attribution {
            Attribution::Known { sender, receiver, .. } => (sender, receiver),
            Attribution::Unknown(_) => (None, None),
        };
        if sender.is_none() && receiver.is_none() {
            self.nobody.add(record.packet.original_length);
            return;
        }
        let decoded = decode::packet(record.interface.link_type, record.packet.data);
        // A packet from a process to itself counts in both columns: it was sent, and received.
        for (owner, is_sender) in [(sender, true), (receiver, false)] {
            if let Some(owner) = owner {
                self.count_end(owner, is_sender, record, &decoded);
            }
        }
    }

    fn count_end(&mut self, owner: Owner, is_sender: bool, record: &Record<'_>, decoded: &Decoded) {
        let packet = &record.packet;
        let traffic = self.by_process.entry(owner.process).or_insert_with(|| Traffic {
            sent: Volume::default(),
            received: Volume::default(),
            peers: HashMap::new(),
            first: packet.time,
            last: packet.time,
        });
        let volume = if is_sender { &mut traffic.sent } else { &mut traffic.received };
        volume.add(packet.original_length);
        if let Decoded::Ip(ip) = decoded {
            *traffic.peers.entry(text::peer(ip, is_sender)).or_default() += 1;
        }
        traffic.first = traffic.first.min(packet.time);
        traffic.last = traffic.last.max(packet.time);
    }

    /// The processes, the busiest first.
    fn rows(&self, processes: &ProcessTable) -> Vec<Row> {
        let mut rows: Vec<Row> = self
            .by_process
            .iter()
            .filter_map(|(index, traffic)| {
                let process = processes.get(*index)?;
                // The most packets; of equals the lowest address, so that the same file gives the same text.
                let top = traffic
                    .peers
                    .iter()
                    .max_by_key(|(address, packets)| (**packets, std::cmp::Reverse(**address)));
                Some(Row {
                    pid: process.pid,
                    name: escape_name(&process.name),
                    path: process.path.as_ref().map(|path| escape_text(path)),
                    sent: traffic.sent,
                    received: traffic.received,
                    peers: traffic.peers.len(),
                    top_peer: top.map(|(address, _)| address.to_string()),
                    first_ns: traffic.first.as_ns(),
                    last_ns: traffic.last.as_ns(),
                })
            })
            .collect();
        let bytes = |row: &Row| row.sent.bytes + row.received.bytes;
        rows.sort_by(|a, b| {
            bytes(b).cmp(&bytes(a)).then(a.pid.cmp(&b.pid)).then(a.first_ns.cmp(&b.first_ns))
        });
        rows
    }

    const fn attributed(&self) -> u64 {
        self.all.packets - self.nobody.packets
    }
}

/// One process; also its object in `--json`. docs/FORMAT.md describes it; keys are only ever added.
#[derive(Debug, Serialize)]
struct Row {
    pid: u32,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    sent: Volume,
    received: Volume,
    /// How many addresses the other ends had.
    peers: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_peer: Option<String>,
    first_ns: u64,
    last_ns: u64,
}

fn human(
    out: &mut dyn Write,
    totals: &Totals,
    rows: &[Row],
    statistics: Option<&Statistics>,
) -> io::Result<()> {
    let heading = ["PROCESS", "TOP PEER", "FIRST", "LAST", "PEERS", "SENT", "BYTES", "RECEIVED", "BYTES"];
    let mut cells = vec![heading.map(str::to_owned).to_vec()];
    for row in rows {
        cells.push(vec![
            format!("{}[{}]", row.name, row.pid),
            row.top_peer.clone().unwrap_or_else(|| "-".to_owned()),
            milliseconds(row.first_ns),
            milliseconds(row.last_ns),
            row.peers.to_string(),
            row.sent.packets.to_string(),
            row.sent.bytes.to_string(),
            row.received.packets.to_string(),
            row.received.bytes.to_string(),
        ]);
    }
    out.write_all(text::table(&cells, 4).as_bytes())?;
    writeln!(out)?;

    let (attributed, all) = (totals.attributed(), totals.all);
    writeln!(out, "{} packets, {} bytes", all.packets, all.bytes)?;
    writeln!(out, "attributed: {attributed} packets{}", share(attributed, all.packets))?;
    let nobody = totals.nobody;
    writeln!(out, "without a process: {} packets, {} bytes", nobody.packets, nobody.bytes)?;
    match statistics {
        Some(statistics) => losses(out, statistics),
        None => writeln!(
            out,
            "no statistics in the file: the recording was cut short, or another program wrote it"
        ),
    }
}

/// Why packets have no process, and what was lost, as the recording itself counted it.
fn losses(out: &mut dyn Write, statistics: &Statistics) -> io::Result<()> {
    for (reason, packets) in reasons(statistics) {
        writeln!(out, "  {reason}: {packets}")?;
    }
    let dropped_by_us = dropped_by_us(statistics);
    writeln!(out, "dropped: {} by the kernel, {dropped_by_us} by recorder", statistics.dropped_by_kernel)?;
    writeln!(out, "socket events lost: {}", statistics.events_lost)
}

fn reasons(statistics: &Statistics) -> impl Iterator<Item = (&'static str, u64)> {
    Reason::ALL
        .into_iter()
        .map(|reason| (reason.name(), statistics.attribution.without(reason)))
        .filter(|(_, packets)| *packets > 0)
}

fn dropped_by_us(statistics: &Statistics) -> u64 {
    statistics.interfaces.iter().map(|counts| counts.dropped_by_us).fold(0, u64::saturating_add)
}

/// ` (99.9 %)`, rounded down so that only all of them are 100.0 %.
fn share(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    let per_mille = u128::from(part) * 1000 / u128::from(whole);
    format!(" ({}.{} %)", per_mille / 10, per_mille % 10)
}

fn milliseconds(ns: u64) -> String {
    let mut time = text::local_time(RealTime::from_ns(ns));
    time.truncate("2026-11-21 01:22:47.123".len());
    time
}

/// The object of `--json`.
#[derive(Serialize)]
struct SummaryJson<'a> {
    processes: &'a [Row],
    total: Volume,
    attributed_packets: u64,
    without_process: Volume,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<StatisticsJson>,
}

/// What the recording itself counted.
#[derive(Serialize)]
struct StatisticsJson {
    start_ns: u64,
    end_ns: u64,
    reasons: HashMap<&'static str, u64>,
    dropped_by_kernel: u64,
    dropped_by_recorder: u64,
    socket_events_lost: u64,
}

fn json(
    out: &mut dyn Write,
    totals: &Totals,
    rows: &[Row],
    statistics: Option<&Statistics>,
) -> io::Result<()> {
    let object = SummaryJson {
        processes: rows,
        total: totals.all,
        attributed_packets: totals.attributed(),
        without_process: totals.nobody,
        statistics: statistics.map(|statistics| StatisticsJson {
            start_ns: statistics.start.as_ns(),
            end_ns: statistics.end.as_ns(),
            reasons: reasons(statistics).collect(),
            dropped_by_kernel: statistics.dropped_by_kernel,
            dropped_by_recorder: dropped_by_us(statistics),
            socket_events_lost: statistics.events_lost,
        }),
    };
    let mut text = serde_json::to_vec(&object)?;
    text.push(b'\n');
    out.write_all(&text)
}

#[cfg(test)]
mod tests {
    use super::super::show::tests::recording;
    use super::*;

    fn summary(file: &[u8], json: bool) -> (String, Result<ExitCode, Error>) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let mut out = Vec::new();
        let result = run(&SummaryArgs { file: path.path().into(), json }, &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    /// A line's words, without the times, which depend on the machine's time zone.
    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().filter(|word| !word.contains("2023-") && !word.contains(':')).collect()
    }

    #[test]
    fn processes_come_with_their_traffic_the_busiest_first() {
        let (out, result) = summary(&recording(), false);
        assert!(result.is_ok());
        let lines: Vec<&str> = out.lines().collect();
        assert_eq!(words(lines[1]), ["curl[4242]", "10.0.0.1", "2", "1", "100", "1", "200"], "{out}");
        assert_eq!(words(lines[2]), ["nginx[99]", "10.0.0.1", "1", "0", "0", "1", "100"], "{out}");
    }

    #[test]
    fn what_is_missing_is_told_with_its_reasons() {
        let (out, _) = summary(&recording(), false);
        let after_table = out.split_once("\n\n").unwrap().1;
        assert_eq!(
            after_table,
            "3 packets, 600 bytes\nattributed: 2 packets (66.6 %)\nwithout a process: 1 packets, 300 bytes\n  \
             not IP: 1\ndropped: 2 by the kernel, 0 by recorder\nsocket events lost: 1\n"
        );
    }

    #[test]
    fn json_says_the_same() {
        let (out, _) = summary(&recording(), true);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object["processes"][0]["name"], "curl");
        assert_eq!(object["processes"][0]["sent"], serde_json::json!({"packets": 1, "bytes": 100}));
        assert_eq!(object["attributed_packets"], 2);
        assert_eq!(object["statistics"]["reasons"], serde_json::json!({"not IP": 1}));
        assert_eq!(object["statistics"]["dropped_by_kernel"], 2);
    }

    #[test]
    fn a_cut_file_is_summed_up_as_far_as_it_goes() {
        let file = recording();
        let (out, result) = summary(&file[..file.len() - 4], false);
        assert!(out.contains("3 packets, 600 bytes"), "{out}");
        assert!(out.contains("no statistics in the file"), "{out}");
        assert_eq!(result.unwrap_err().exit_code(), 1);
    }

    #[test]
    fn a_share_is_rounded_down() {
        assert_eq!(share(9999, 10000), " (99.9 %)");
        assert_eq!(share(5, 5), " (100.0 %)");
        assert_eq!(share(0, 0), "");
    }
}
