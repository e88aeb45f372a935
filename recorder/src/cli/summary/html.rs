//! The page of `recorder summary --html`: `report.html` with the numbers of one capture in it. Its size depends on the number of
//! processes, their peers and the bins of the timeline, not on the number of packets.
//!
//! Nothing of a capture can become a part of the page: it stands in one JSON text in which no `<` is left, and the script of the page
//! puts it into the document as text. What would slip through all the same is not run: the page allows only the one script and
//! the one style whose hashes it names.

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::Path;

use serde::Serialize;

use super::super::filter::refuse_to_replace;
use super::super::{Error, text};
use super::connections::{Connection, TcpCounts};
use super::json::{Beyond, StatisticsJson};
use super::rows::{ConnectionRow, Peer, Row};
use super::tcp::{End, Start};
use super::timeline::Bytes;
use super::totals::Volume;
use super::{Rows, Summary, beyond};
use crate::model::{Process, ProcessIndex, ProcessTable, RealTime};
use crate::output::{CreateError, Manner, Output};
use crate::pcapng::annotation::{escape_name, escape_text};
use crate::pipeline::Invoker;

/// The page around the numbers.
const TEMPLATE: &str = include_str!("report.html");
/// What stands in their place.
const PLACE: &str = "RECORDING";

/// The page lists so many connections; `recorder summary --by connection` has all.
const MOST_CONNECTIONS: usize = 2000;

/// A page that is to be written.
pub(super) struct Page {
    output: Output,
    /// What it is about.
    file: String,
}

impl Page {
    /// Creates the file for the page, as a recording is created.
    pub(super) fn create(path: &Path, file: &Path, force: bool) -> Result<Self, CreateError> {
        refuse_to_replace(file, path)?;
        let owner = Invoker::from_sudo().map(|invoker| (invoker.uid, invoker.gid));
        let output = Output::create(path, &Manner { force, owner, compression: None }, &|| true)?;
        let name = file.file_name().unwrap_or(file.as_os_str()).to_string_lossy();
        Ok(Self { output, file: text::safe(&name) })
    }

    /// Writes it, and says on standard error how large it is. `failure`: why the file could not be read to its end.
    pub(super) fn write(
        mut self,
        summary: &Summary,
        processes: &ProcessTable,
        user_name: &dyn Fn(u32) -> Option<String>,
        failure: Option<&Error>,
    ) -> io::Result<()> {
        let report = Report::new(&self.file, summary, processes, user_name, failure)?;
        let numbers = harmless(&serde_json::to_string(&report)?);
        let (before, after) = TEMPLATE.split_once(PLACE).unwrap_or((TEMPLATE, ""));
        for part in [before, &numbers, after] {
            self.output.write_all(part.as_bytes())?;
        }
        self.output.flush()?;
        let path = text::safe(&self.output.path().to_string_lossy());
        let (all, rows) = (summary.totals.all.packets, report.processes.len());
        let size = self.output.finish()?;
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr(), "{path}: {all} packets, {rows} processes; {size} bytes");
        Ok(())
    }
}

/// JSON in which nothing can end a script element or begin a comment, and which is one line for every reader of JavaScript.
fn harmless(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for letter in json.chars() {
        match letter {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => text.push_str(&format!("\\u{:04x}", letter as u32)),
            letter => text.push(letter),
        }
    }
    text
}

/// What the script of the page reads. Times are milliseconds after the first packet; pairs are packets and bytes.
#[derive(Serialize)]
struct Report<'a> {
    file: &'a str,
    version: &'static str,
    /// Milliseconds since 1970.
    first_ms: f64,
    last_ms: f64,
    bins: Bins,
    total: Volume,
    nobody: Volume,
    tcp: TcpCounts,
    sent_again: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<StatisticsJson>,
    processes: Vec<ProcessJson>,
    nobody_bins: Vec<u64>,
    connections: Vec<ConnectionJson>,
    connections_left_out: usize,
    /// What a reader must know besides.
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Bins {
    count: u64,
    ms: f64,
    offset_ms: f64,
}

#[derive(Serialize)]
struct ProcessJson {
    name: String,
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    ppid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    sent: [u64; 2],
    received: [u64; 2],
    again: [u64; 2],
    first: f64,
    last: f64,
    tcp: TcpCounts,
    peers: Vec<PeerJson>,
    /// Four numbers for each bin that has any: its number, bytes sent, bytes received, share.
    bins: Vec<u64>,
}

/// Address, names, packets and bytes sent, packets and bytes received, segments sent again both ways: without keys, because there
/// may be many.
#[derive(Serialize)]
struct PeerJson(String, Vec<String>, u64, u64, u64, u64, u64);

impl PeerJson {
    fn new(peer: &Peer) -> Self {
        let again = peer.sent_again.sent + peer.sent_again.received;
        let ([a, b], [c, d]) = (pair(peer.sent), pair(peer.received));
        Self(peer.address.to_string(), peer.names.clone(), a, b, c, d, again)
    }
}

#[derive(Serialize)]
struct ConnectionJson {
    label: String,
    /// Who is at its ends, in words.
    names: String,
    /// Numbers of processes.
    from: Vec<usize>,
    to: Vec<usize>,
    sent: [u64; 2],
    received: [u64; 2],
    again: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    start: Option<Start>,
    #[serde(skip_serializing_if = "Option::is_none")]
    end: Option<End>,
}

impl<'a> Report<'a> {
    fn new(
        file: &'a str,
        summary: &Summary,
        processes: &ProcessTable,
        user_name: &dyn Fn(u32) -> Option<String>,
        failure: Option<&Error>,
    ) -> io::Result<Self> {
        let totals = &summary.totals;
        let (first, last) = totals.times.unwrap_or_default();
        let timeline = totals.timeline.as_ref();
        let mut series = timeline.map(|timeline| timeline.series()).unwrap_or_default();
        let (first_bin, count, length_ns) = timeline.map(|timeline| timeline.bins()).unwrap_or_default();
        let rows: &[Row] = match &summary.rows {
            Rows::Groups(rows) => rows,
            Rows::Connections(_) => &[],
        };
        let numbers: HashMap<ProcessIndex, usize> =
            rows.iter().enumerate().filter_map(|(number, row)| Some((row.process?, number))).collect();
        let connections = busiest(summary, processes, &numbers);
        Ok(Self {
            file,
            version: env!("CARGO_PKG_VERSION"),
            first_ms: milliseconds(first.as_ns()),
            last_ms: after(first, last),
            bins: Bins { count, ms: milliseconds(length_ns), offset_ms: after(first, first_bin) },
            total: totals.all,
            nobody: totals.nobody,
            tcp: totals.connections.tcp_counts(),
            sent_again: totals.connections.sent_again(),
            statistics: summary.statistics.as_ref().map(StatisticsJson::of),
            nobody_bins: flat(series.remove(&None).unwrap_or_default()),
            processes: rows
                .iter()
                .filter_map(|row| {
                    let bins = series.remove(&row.process).unwrap_or_default();
                    Some(ProcessJson::new(processes.get(row.process?)?, row, first, bins, user_name))
                })
                .collect(),
            connections_left_out: totals.connections.iter().count() - connections.len(),
            connections,
            notes: notes(summary, failure)?,
        })
    }
}

impl ProcessJson {
    fn new(
        process: &Process,
        row: &Row,
        start: RealTime,
        bins: Vec<(u64, Bytes)>,
        user_name: &dyn Fn(u32) -> Option<String>,
    ) -> Self {
        Self {
            name: escape_name(&process.name),
            pid: process.pid,
            ppid: process.parent_pid,
            path: process.path.as_ref().map(|path| escape_text(path)),
            uid: process.uid,
            user: process.uid.and_then(user_name).map(|user| text::safe(&user)),
            unit: process.unit.as_deref().map(text::unit),
            container: process.container.as_deref().map(text::unit),
            sent: pair(row.sent),
            received: pair(row.received),
            again: [row.sent_again.sent, row.sent_again.received],
            first: after(start, RealTime::from_ns(row.first_ns)),
            last: after(start, RealTime::from_ns(row.last_ns)),
            tcp: row.tcp,
            peers: row.peer_list.iter().map(PeerJson::new).collect(),
            bins: flat(bins),
        }
    }
}

/// The connections with the most bytes, of those with a process.
fn busiest(
    summary: &Summary,
    processes: &ProcessTable,
    numbers: &HashMap<ProcessIndex, usize>,
) -> Vec<ConnectionJson> {
    let bytes = |connection: &&Connection| connection.volumes[0].plus(connection.volumes[1]).bytes;
    let mut busiest: Vec<&Connection> = summary.totals.connections.iter().collect();
    busiest.sort_by_key(|connection| std::cmp::Reverse(bytes(connection)));
    let ends = |processes: &[ProcessIndex]| {
        processes.iter().filter_map(|index| numbers.get(index).copied()).collect::<Vec<usize>>()
    };
    let json = |connection: &&Connection| {
        let row = ConnectionRow::new(connection, processes, &summary.totals.names);
        ConnectionJson {
            label: row.label(),
            names: row.processes(),
            from: ends(&connection.processes[0]),
            to: ends(&connection.processes[1]),
            sent: pair(row.sent),
            received: pair(row.received),
            again: row.sent_again.sent + row.sent_again.received,
            start: row.start,
            end: row.end,
        }
    };
    busiest.iter().take(MOST_CONNECTIONS).map(json).collect()
}

/// What a reader must know besides the numbers: what is missing.
fn notes(summary: &Summary, failure: Option<&Error>) -> io::Result<Vec<String>> {
    let mut notes = Vec::new();
    if let Some(failure) = failure {
        notes.push(format!("The file could not be read to its end: {}.", text::safe(&failure.to_string())));
    }
    if let Some(Volume { packets, bytes }) = summary.left_out {
        notes.push(format!("{packets} packets, {bytes} bytes of the file were not selected."));
    }
    if !Beyond::of(&summary.totals).is_nothing() {
        let mut lines = Vec::new();
        beyond(&mut lines, &summary.totals)?;
        notes.push(String::from_utf8_lossy(&lines).trim_end().replace('\n', "; "));
    }
    Ok(notes)
}

fn flat(bins: Vec<(u64, Bytes)>) -> Vec<u64> {
    bins.into_iter().flat_map(|(bin, bytes)| [bin, bytes.sent, bytes.received, bytes.share]).collect()
}

const fn pair(volume: Volume) -> [u64; 2] {
    [volume.packets, volume.bytes]
}

fn milliseconds(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Milliseconds from one time to another; negative if it is the earlier one.
fn after(start: RealTime, time: RealTime) -> f64 {
    milliseconds(time.since(start).as_nanos() as u64) - milliseconds(start.since(time).as_nanos() as u64)
}
