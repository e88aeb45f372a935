//! The object of `recorder summary --json`. docs/FORMAT.md describes it; keys are only ever added.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::super::text;
use super::connections::TcpCounts;
use super::rows::{ConnectionRow, Row};
use super::totals::{Limits, Totals, Volume};
use super::{By, Rows, Summary, dropped_by_us, reasons};
use crate::model::{Found, Statistics};

#[derive(Serialize)]
struct SummaryJson<'a> {
    /// The rows by process.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<&'a [Row]>,
    /// The rows by anything that processes have in common.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Row]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<&'a [ConnectionRow]>,
    total: Volume,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_ns: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_ns: Option<u64>,
    tcp: TcpCounts,
    sent_again: u64,
    attributed_packets: u64,
    without_process: Volume,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_selected: Option<Volume>,
    #[serde(skip_serializing_if = "Option::is_none")]
    statistics: Option<StatisticsJson>,
    limits: Limits,
    #[serde(skip_serializing_if = "Beyond::is_nothing")]
    beyond: Beyond,
}

/// What there was no room for.
#[derive(Serialize)]
pub(super) struct Beyond {
    connections: Volume,
    peers: Volume,
    pairs: Volume,
    names: u64,
    processes_of_connections: u64,
}

impl Beyond {
    pub(super) const fn of(totals: &Totals) -> Self {
        Self {
            connections: totals.connections.beyond,
            peers: totals.beyond_peers,
            pairs: totals.beyond_pairs,
            names: totals.names.beyond,
            processes_of_connections: totals.connections.unnamed,
        }
    }

    pub(super) const fn is_nothing(&self) -> bool {
        let volumes = self.connections.packets + self.peers.packets + self.pairs.packets;
        volumes + self.names + self.processes_of_connections == 0
    }
}

/// What the recording itself counted.
#[derive(Serialize)]
pub(super) struct StatisticsJson {
    start_ns: u64,
    end_ns: u64,
    found: BTreeMap<&'static str, u64>,
    reasons: BTreeMap<&'static str, u64>,
    dropped_by_kernel: u64,
    dropped_by_recorder: u64,
    socket_events_lost: u64,
    #[serde(skip_serializing_if = "is_zero")]
    not_selected: u64,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    not_selected_reasons: BTreeMap<&'static str, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    filtered_out: u64,
}

impl StatisticsJson {
    pub(super) fn of(statistics: &Statistics) -> Self {
        let found = |found: Found| (found.name(), statistics.attribution.found(found));
        Self {
            start_ns: statistics.start.as_ns(),
            end_ns: statistics.end.as_ns(),
            found: Found::ALL.into_iter().map(found).filter(|(_, packets)| *packets > 0).collect(),
            reasons: reasons(&statistics.attribution).collect(),
            dropped_by_kernel: statistics.dropped_by_kernel,
            dropped_by_recorder: dropped_by_us(statistics),
            socket_events_lost: statistics.events_lost,
            not_selected: statistics.not_selected.total(),
            not_selected_reasons: reasons(&statistics.not_selected).collect(),
            filtered_out: statistics.filtered_out,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// Prints the object on a line.
pub(super) fn print(out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    let Summary { by, totals, left_out, rows, statistics } = summary;
    let (groups, connections) = match rows {
        Rows::Groups(rows) => (Some(rows.as_slice()), None),
        Rows::Connections(rows) => (None, Some(rows.as_slice())),
    };
    let object = SummaryJson {
        processes: groups.filter(|_| *by == By::Process),
        groups: groups.filter(|_| *by != By::Process),
        connections,
        total: totals.all,
        first_ns: totals.times.map(|(first, _)| first.as_ns()),
        last_ns: totals.times.map(|(_, last)| last.as_ns()),
        tcp: totals.connections.tcp_counts(),
        sent_again: totals.connections.sent_again(),
        attributed_packets: totals.attributed(),
        without_process: totals.nobody,
        not_selected: *left_out,
        statistics: statistics.as_ref().map(StatisticsJson::of),
        limits: totals.limits,
        beyond: Beyond::of(totals),
    };
    writeln!(out, "{}", text::json(serde_json::to_string(&object)?))
}
