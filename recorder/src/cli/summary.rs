//! `recorder summary FILE`: who sent and received how much, and how complete the attribution is.

mod totals;

use std::collections::HashMap;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::{Uid, User};
use serde::Serialize;

use self::totals::{Row, Totals, Volume};
use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::model::{AttributionCounts, RealTime, Reason, Statistics};
use crate::selection::ProcessFilter;

pub use self::totals::By;

/// Arguments of `recorder summary`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct SummaryArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// Put processes together that have this in common
    #[arg(long, value_enum, default_value_t = By::Pid)]
    pub by: By,
    /// Print one JSON object (docs/FORMAT.md)
    #[arg(long)]
    pub json: bool,
    /// Whose packets to sum up.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Prints what each process, or group of processes, sent and received, then how complete that is.
///
/// # Errors
/// If the file cannot be read to its end (what was read is summed up all the same), or `out` not written.
pub fn run(args: &SummaryArgs, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let (mut reader, mut selected) = open_selected(&args.file, &args.selection)?;
    let (mut totals, mut left_out) = (Totals::default(), Volume::default());
    let failure = loop {
        match reader.next_packet() {
            Ok(Some(record)) => {
                let keeps = |filter: &mut ProcessFilter| filter.keeps(&record.attribution, record.processes);
                if selected.as_mut().is_none_or(keeps) {
                    totals.count(&record);
                } else {
                    left_out.count(record.packet.original_length);
                }
            }
            Ok(None) => break None,
            Err(source) => break Some(Error::Read { path: args.file.clone(), source }),
        }
    };
    let rows = totals.rows(args.by, reader.processes(), user_name);
    let left_out = selected.is_some().then_some(left_out);
    let summary = Summary { by: args.by, totals, left_out, rows, statistics: reader.statistics() };
    let printed = if args.json { json(out, &summary) } else { human(out, &summary) };
    ignore_broken_pipe(printed.and_then(|()| out.flush()))?;
    failure.map_or(Ok(()), Err)?;
    late(&args.file, selected.map_or(0, |filter| filter.misjudged(reader.processes())))?;
    Ok(ExitCode::SUCCESS)
}

/// The name of a user on the system that prints, which need not be the one that recorded.
fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// What there is to print.
struct Summary {
    by: By,
    totals: Totals,
    /// What is in the file and was not asked for; nothing if all was.
    left_out: Option<Volume>,
    rows: Vec<Row>,
    statistics: Option<Statistics>,
}

fn human(out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    let Summary { by, totals, left_out, rows, statistics } = summary;
    out.write_all(text::table(&cells(*by, rows), 4).as_bytes())?;
    writeln!(out)?;

    let (attributed, all) = (totals.attributed(), totals.all);
    writeln!(out, "{} packets, {} bytes", all.packets, all.bytes)?;
    writeln!(out, "attributed: {attributed} packets{}", share(attributed, all.packets))?;
    let nobody = totals.nobody;
    writeln!(out, "without a process: {} packets, {} bytes", nobody.packets, nobody.bytes)?;
    if let Some(left_out) = left_out {
        writeln!(out, "not selected here: {} packets, {} bytes", left_out.packets, left_out.bytes)?;
    }
    match statistics {
        Some(statistics) => {
            if left_out.is_some() || statistics.filtered_out > 0 {
                writeln!(out, "the whole recording:")?;
            }
            losses(out, statistics)
        }
        None => writeln!(
            out,
            "no statistics in the file: the recording was cut short, or another program wrote it"
        ),
    }
}

/// The table, with its heading.
fn cells(by: By, rows: &[Row]) -> Vec<Vec<String>> {
    let (what, counts_processes) = match by {
        By::Pid => ("PROCESS", false),
        By::Name => ("NAME", true),
        By::User => ("USER", true),
        By::Unit => ("UNIT", true),
        By::Container => ("CONTAINER", true),
    };
    let processes = |cell: String| counts_processes.then_some(cell);
    let left = [what, "TOP PEER", "FIRST", "LAST"].map(str::to_owned);
    let right = ["PEERS", "SENT", "BYTES", "RECEIVED", "BYTES"].map(str::to_owned);
    let mut cells = vec![left.into_iter().chain(processes("PROCESSES".to_owned())).chain(right).collect()];
    cells.extend(rows.iter().map(|row| {
        let left = [
            row.who.label(),
            row.top_peer.clone().unwrap_or_else(|| "-".to_owned()),
            milliseconds(row.first_ns),
            milliseconds(row.last_ns),
        ];
        let Row { peers, sent, received, .. } = row;
        let right = [*peers as u64, sent.packets, sent.bytes, received.packets, received.bytes];
        let right = right.map(|number| number.to_string());
        left.into_iter().chain(processes(row.processes.to_string())).chain(right).collect()
    }));
    cells
}

/// Why packets have no process, and what was lost, as the recording itself counted it.
fn losses(out: &mut dyn Write, statistics: &Statistics) -> io::Result<()> {
    for (reason, packets) in reasons(&statistics.attribution) {
        writeln!(out, "  {reason}: {packets}")?;
    }
    let dropped_by_us = dropped_by_us(statistics);
    writeln!(out, "dropped: {} by the kernel, {dropped_by_us} by recorder", statistics.dropped_by_kernel)?;
    writeln!(out, "socket events lost: {}", statistics.events_lost)?;
    let Statistics { not_selected, filtered_out, .. } = statistics;
    if not_selected.total() > 0 {
        writeln!(out, "left out while recording: {} packets", not_selected.total())?;
        for (reason, packets) in reasons(not_selected) {
            writeln!(out, "  {reason}: {packets}")?;
        }
    }
    if *filtered_out > 0 {
        writeln!(out, "left out of this copy: {filtered_out} packets")?;
    }
    Ok(())
}

fn reasons(counts: &AttributionCounts) -> impl Iterator<Item = (&'static str, u64)> {
    Reason::ALL
        .into_iter()
        .map(|reason| (reason.name(), counts.without(reason)))
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
    /// The rows by pid.
    #[serde(skip_serializing_if = "Option::is_none")]
    processes: Option<&'a [Row]>,
    /// The rows by anything else.
    #[serde(skip_serializing_if = "Option::is_none")]
    groups: Option<&'a [Row]>,
    total: Volume,
    attributed_packets: u64,
    without_process: Volume,
    #[serde(skip_serializing_if = "Option::is_none")]
    not_selected: Option<Volume>,
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
    #[serde(skip_serializing_if = "is_zero")]
    not_selected: u64,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    not_selected_reasons: HashMap<&'static str, u64>,
    #[serde(skip_serializing_if = "is_zero")]
    filtered_out: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde gives a reference")]
const fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn json(out: &mut dyn Write, summary: &Summary) -> io::Result<()> {
    let Summary { by, totals, left_out, rows, statistics } = summary;
    let is_by_pid = *by == By::Pid;
    let object = SummaryJson {
        processes: is_by_pid.then_some(rows),
        groups: (!is_by_pid).then_some(rows),
        total: totals.all,
        attributed_packets: totals.attributed(),
        without_process: totals.nobody,
        not_selected: *left_out,
        statistics: statistics.as_ref().map(|statistics| StatisticsJson {
            start_ns: statistics.start.as_ns(),
            end_ns: statistics.end.as_ns(),
            reasons: reasons(&statistics.attribution).collect(),
            dropped_by_kernel: statistics.dropped_by_kernel,
            dropped_by_recorder: dropped_by_us(statistics),
            socket_events_lost: statistics.events_lost,
            not_selected: statistics.not_selected.total(),
            not_selected_reasons: reasons(&statistics.not_selected).collect(),
            filtered_out: statistics.filtered_out,
        }),
    };
    let mut text = serde_json::to_vec(&object)?;
    text.push(b'\n');
    out.write_all(&text)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::show::tests::recording;
    use super::super::{Cli, Command};
    use super::*;

    fn summary(file: &[u8], json: bool) -> (String, Result<ExitCode, Error>) {
        summary_by(file, By::Pid, json)
    }

    fn summary_by(file: &[u8], by: By, json: bool) -> (String, Result<ExitCode, Error>) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let mut out = Vec::new();
        let result = run(
            &SummaryArgs { file: path.path().into(), by, json, selection: SelectionArgs::default() },
            &mut out,
        );
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
    fn only_the_packets_of_the_chosen_processes_are_summed_up_and_the_others_counted() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), recording()).unwrap();
        let summary = |json: bool, name: &str| {
            let path = path.path().to_str().unwrap();
            let arguments = ["recorder", "summary", path, "--name", name];
            let arguments = arguments.iter().copied().chain(json.then_some("--json"));
            let Command::Summary(args) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
            let mut out = Vec::new();
            run(&args, &mut out).unwrap();
            String::from_utf8(out).unwrap()
        };
        let out = summary(false, "nginx");
        assert_eq!(
            out.split_once("\n\n").unwrap().1,
            "1 packets, 100 bytes\nattributed: 1 packets (100.0 %)\nwithout a process: 0 packets, 0 bytes\n\
             not selected here: 2 packets, 500 bytes\nthe whole recording:\n  not IP: 1\n\
             dropped: 2 by the kernel, 0 by recorder\nsocket events lost: 1\n"
        );
        let object: serde_json::Value = serde_json::from_str(&summary(true, "curl")).unwrap();
        assert_eq!(object["total"], serde_json::json!({"packets": 2, "bytes": 300}));
        assert_eq!(object["not_selected"], serde_json::json!({"packets": 1, "bytes": 300}));
    }

    #[test]
    fn a_group_is_a_row_with_the_number_of_its_processes() {
        let (out, result) = summary_by(&recording(), By::Name, false);
        assert!(result.is_ok());
        let lines: Vec<&str> = out.lines().collect();
        assert!(lines[0].starts_with("NAME "), "{out}");
        assert_eq!(words(lines[1]), ["curl", "10.0.0.1", "1", "2", "1", "100", "1", "200"], "{out}");

        let (out, _) = summary_by(&recording(), By::Container, true);
        let object: serde_json::Value = serde_json::from_str(&out).unwrap();
        assert_eq!(object.get("processes"), None);
        let groups = object["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 1, "{out}");
        assert_eq!(groups[0].get("container"), None, "they are in none");
        assert_eq!(groups[0]["processes"], 2);
        assert_eq!(groups[0]["total"], serde_json::json!({"packets": 2, "bytes": 300}));
        assert_eq!(groups[0]["sent"], serde_json::json!({"packets": 1, "bytes": 100}));
        assert_eq!(groups[0]["received"], serde_json::json!({"packets": 2, "bytes": 300}));
    }

    #[test]
    fn a_user_is_a_number_and_where_the_system_knows_it_a_name() {
        assert_eq!(user_name(0).as_deref(), Some("root"));
        assert_eq!(user_name(u32::MAX - 7), None);
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
