//! `recorder summary FILE`: who sent and received how much, from and to whom, and how complete the attribution is.

mod connections;
mod html;
mod json;
mod names;
mod rows;
mod table;
mod tcp;
mod timeline;
mod totals;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use nix::unistd::{Uid, User};

use self::connections::TcpCounts;
use self::html::Page;
use self::rows::{ConnectionRow, Row};
use self::table::Column;
use self::tcp::{End, Start};
use self::totals::{Limits, Totals, Volume};
use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::model::{AttributionCounts, RealTime, Reason, Statistics};
use crate::selection::ProcessFilter;

pub use self::rows::By;

/// So many peers stand in a row of the table.
const PEERS_IN_ROW: usize = 3;

/// Two IPv4 addresses with their ports are hardly longer.
const MOST_OF_A_CONNECTION: usize = 44;

/// Arguments of `recorder summary`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct SummaryArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// What a row stands for: processes that have this in common, or a connection
    #[arg(long, value_enum, default_value_t = By::Process)]
    pub by: By,
    /// Print one JSON object (docs/FORMAT.md)
    #[arg(long)]
    pub json: bool,
    /// Write a page for a browser instead, which needs nothing but itself; `-` is standard output
    #[arg(long, value_name = "PAGE", conflicts_with_all = ["json", "by"])]
    pub html: Option<PathBuf>,
    /// Replace PAGE if it is there
    #[arg(long, requires = "html")]
    pub force: bool,
    /// Whose packets to sum up.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Prints what each process, or group of processes, sent and received, then how complete that is; or makes a page of it. The table
/// has at most `width` columns, if there is such a limit.
///
/// # Errors
/// If the file cannot be read to its end (what was read is summed up all the same), or `out` or the page not written.
pub fn run(args: &SummaryArgs, out: &mut dyn Write, width: Option<usize>) -> Result<ExitCode, Error> {
    let (mut reader, mut selected) = open_selected(&args.file, &args.selection)?;
    let page = args.html.as_deref().map(|path| Page::create(path, &args.file, args.force)).transpose()?;
    let (mut totals, mut left_out) = (Totals::new(Limits::default(), page.is_some()), Volume::default());
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
    let by = args.by;
    let rows = match by {
        By::Connection => Rows::Connections(rows::connections(&totals, reader.processes())),
        by => Rows::Groups(rows::groups(&totals, by, reader.processes(), &user_name)),
    };
    let left_out = selected.is_some().then_some(left_out);
    let summary = Summary { by, totals, left_out, rows, statistics: reader.statistics() };
    let printed = match page {
        Some(page) => page.write(&summary, reader.processes(), &user_name, failure.as_ref()),
        None if args.json => json::print(out, &summary),
        None => human(out, &summary, width),
    };
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
    rows: Rows,
    statistics: Option<Statistics>,
}

/// What stands in the table.
enum Rows {
    Groups(Vec<Row>),
    Connections(Vec<ConnectionRow>),
}

fn human(out: &mut dyn Write, summary: &Summary, width: Option<usize>) -> io::Result<()> {
    let Summary { by, totals, left_out, rows, statistics } = summary;
    let clock = Clock::of(totals);
    let columns = match rows {
        Rows::Groups(rows) => group_columns(*by, rows, &clock),
        Rows::Connections(rows) => connection_columns(rows, &clock),
    };
    let (table, without) = table::fit(columns, width);
    out.write_all(table.as_bytes())?;
    if !without.is_empty() {
        writeln!(out, "left out, for the terminal is too narrow (--json has all): {}", without.join(", "))?;
    }
    writeln!(out)?;

    let (attributed, all) = (totals.attributed(), totals.all);
    writeln!(out, "{} packets, {} bytes", all.packets, all.bytes)?;
    if let Some((first, last)) = totals.times {
        writeln!(out, "captured: {} to {}", milliseconds(first), milliseconds(last))?;
    }
    let tcp = totals.connections.tcp_counts();
    if tcp.connections > 0 {
        writeln!(out, "{}; {} segments sent again", told(&tcp), totals.connections.sent_again())?;
    }
    beyond(out, totals)?;
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

/// How the times of the rows are written: without the date, if all are of one day.
struct Clock {
    is_one_day: bool,
}

/// `2026-11-21`
const DATE_LENGTH: usize = 10;

impl Clock {
    fn of(totals: &Totals) -> Self {
        let day = |time| text::local_time(time).chars().take(DATE_LENGTH).collect::<String>();
        Self { is_one_day: totals.times.is_none_or(|(first, last)| day(first) == day(last)) }
    }

    fn time(&self, ns: u64) -> String {
        let time = milliseconds(RealTime::from_ns(ns));
        match time.split_once(' ') {
            Some((_, clock)) if self.is_one_day => clock.to_owned(),
            _ => time,
        }
    }
}

fn milliseconds(time: RealTime) -> String {
    let mut time = text::local_time(time);
    time.truncate("2026-11-21 01:22:47.123".len());
    time
}

fn group_columns(by: By, rows: &[Row], clock: &Clock) -> Vec<Column> {
    let what = match by {
        By::Process | By::Connection => "PROCESS",
        By::Name => "NAME",
        By::User => "USER",
        By::Unit => "UNIT",
        By::Container => "CONTAINER",
    };
    let mut columns = vec![Column::text(what, 0, rows.iter().map(|row| row.who.label()))];
    if by != By::Process {
        columns.push(Column::number("PROCESSES", 3, rows.iter().map(|row| row.processes as u64)));
    }
    columns.extend([
        Column::number("SENT", 0, rows.iter().map(|row| row.sent.packets)),
        Column::number("BYTES", 0, rows.iter().map(|row| row.sent.bytes)),
        Column::number("RECEIVED", 0, rows.iter().map(|row| row.received.packets)),
        Column::number("BYTES", 0, rows.iter().map(|row| row.received.bytes)),
        Column::text("TCP", 2, rows.iter().map(|row| tcp_cell(&row.tcp))),
        Column::number("RESENT", 4, rows.iter().map(|row| row.sent_again.sent)),
        Column::text("FIRST", 5, rows.iter().map(|row| clock.time(row.first_ns))),
        Column::text("LAST", 6, rows.iter().map(|row| clock.time(row.last_ns))),
        Column::text("PEERS", 1, rows.iter().map(peers_cell)),
    ]);
    columns
}

/// The busiest peers, and how many more there are.
fn peers_cell(row: &Row) -> String {
    let mut labels: Vec<String> = row.peer_list.iter().take(PEERS_IN_ROW).map(rows::Peer::label).collect();
    let more = row.peer_list.len() - labels.len();
    if more > 0 {
        labels.push(format!("{more} more"));
    }
    if labels.is_empty() { "-".to_owned() } else { labels.join(", ") }
}

/// How many connections, and which of them were not opened and closed within the capture: `5 (1 reset, 2 open)`.
fn tcp_cell(tcp: &TcpCounts) -> String {
    let unusual = [
        (tcp.already_open, "already open"),
        (tcp.half_closed, "half closed"),
        (tcp.reset, "reset"),
        (tcp.refused, "refused"),
        (tcp.unanswered, "unanswered"),
        (tcp.open, "still open"),
    ];
    let unusual = counted(&unusual);
    match tcp.connections {
        0 => "-".to_owned(),
        all if unusual.is_empty() => all.to_string(),
        1 => unusual,
        all => format!("{all} ({unusual})"),
    }
}

/// `TCP connections: 5 (4 opened here, 1 already open): 3 closed, 1 reset, 1 still open`
fn told(tcp: &TcpCounts) -> String {
    let starts = counted(&[(tcp.syn, "opened here"), (tcp.already_open, "already open")]);
    let ends = counted(&[
        (tcp.fin, "closed"),
        (tcp.half_closed, "half closed"),
        (tcp.reset, "reset"),
        (tcp.refused, "refused"),
        (tcp.unanswered, "unanswered"),
        (tcp.open, "still open"),
    ]);
    format!("TCP connections: {} ({starts}): {ends}", tcp.connections)
}

/// `3 closed, 1 reset`: what there is of.
fn counted(numbers: &[(u64, &str)]) -> String {
    let there = numbers.iter().filter(|(number, _)| *number > 0);
    there.map(|(number, what)| format!("{number} {what}")).collect::<Vec<_>>().join(", ")
}

fn connection_columns(rows: &[ConnectionRow], clock: &Clock) -> Vec<Column> {
    vec![
        Column::text("CONNECTION", 0, rows.iter().map(ConnectionRow::label)).at_least(MOST_OF_A_CONNECTION),
        Column::text("PROCESSES", 0, rows.iter().map(ConnectionRow::processes)),
        Column::text("TCP", 2, rows.iter().map(connection_state)),
        Column::number("SENT", 0, rows.iter().map(|row| row.sent.packets)),
        Column::number("BYTES", 0, rows.iter().map(|row| row.sent.bytes)),
        Column::number("RECEIVED", 0, rows.iter().map(|row| row.received.packets)),
        Column::number("BYTES", 0, rows.iter().map(|row| row.received.bytes)),
        Column::number("RESENT", 4, rows.iter().map(|row| row.sent_again.sent + row.sent_again.received)),
        Column::text("FIRST", 5, rows.iter().map(|row| clock.time(row.first_ns))),
        Column::text("LAST", 6, rows.iter().map(|row| clock.time(row.last_ns))),
        Column::text("NAME", 1, rows.iter().map(|row| row.name().unwrap_or("-").to_owned())),
    ]
}

fn connection_state(row: &ConnectionRow) -> String {
    let end = match row.end {
        None => return "-".to_owned(),
        Some(End::Fin) => "closed",
        Some(End::HalfClosed) => "half closed",
        Some(End::Reset) => "reset",
        Some(End::Refused) => "refused",
        Some(End::Unanswered) => "unanswered",
        Some(End::Open) => "still open",
    };
    if row.start == Some(Start::AlreadyOpen) { format!("already open, {end}") } else { end.to_owned() }
}

/// What there was no room for.
fn beyond(out: &mut dyn Write, totals: &Totals) -> io::Result<()> {
    let limits = &totals.limits;
    let lines = [
        (limits.connections, "connections", totals.connections.beyond, "of further ones are in none"),
        (limits.peers, "peers of processes", totals.beyond_peers, "of further ones are in none"),
        (
            limits.pairs,
            "pairs of processes",
            totals.beyond_pairs,
            "of further ones may count twice for a group",
        ),
    ];
    for (limit, what, beyond, consequence) in lines {
        if beyond.packets > 0 {
            let Volume { packets, bytes } = beyond;
            writeln!(out, "only {limit} {what} are kept: {packets} packets, {bytes} bytes {consequence}")?;
        }
    }
    let (names, unnamed) = (totals.names.beyond, totals.connections.unnamed);
    if names > 0 {
        writeln!(
            out,
            "only {} addresses with four names each are kept: {names} answers are not",
            limits.names
        )?;
    }
    if unnamed > 0 {
        writeln!(
            out,
            "only 16 processes are named at an end of a connection: {unnamed} packets are of others"
        )?;
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::show::tests::recording;
    use super::super::{Cli, Command};
    use super::*;

    fn summary(file: &[u8], json: bool) -> (String, Result<ExitCode, Error>) {
        summary_by(file, By::Process, json)
    }

    fn summary_by(file: &[u8], by: By, json: bool) -> (String, Result<ExitCode, Error>) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let mut out = Vec::new();
        let result = run(
            &SummaryArgs {
                file: path.path().into(),
                by,
                json,
                html: None,
                force: false,
                selection: SelectionArgs::default(),
            },
            &mut out,
            None,
        );
        (String::from_utf8(out).unwrap(), result)
    }

    /// A line's words, without the times, which depend on the machine's time zone.
    fn words(line: &str) -> Vec<&str> {
        line.split_whitespace().filter(|word| !word.contains("2023-") && !word.contains(':')).collect()
    }

    /// What stands there, without the line of times.
    fn below_the_table(out: &str) -> String {
        let below = out.split_once("\n\n").unwrap().1;
        below.split_inclusive('\n').filter(|line| !line.starts_with("captured: 2023-")).collect()
    }

    #[test]
    fn processes_come_with_their_traffic_the_busiest_first() {
        let (out, result) = summary(&recording(), false);
        assert!(result.is_ok());
        let lines: Vec<&str> = out.lines().collect();
        let curl = ["curl[4242]", "1", "100", "1", "200", "1", "unanswered", "0", "10.0.0.1,", "10.0.0.2"];
        assert_eq!(words(lines[1]), curl, "{out}");
        let nginx = ["nginx[99]", "0", "0", "1", "100", "1", "unanswered", "0", "10.0.0.1"];
        assert_eq!(words(lines[2]), nginx, "{out}");
    }

    #[test]
    fn what_is_missing_is_told_with_its_reasons() {
        let (out, _) = summary(&recording(), false);
        assert_eq!(
            below_the_table(&out),
            "3 packets, 600 bytes\nTCP connections: 1 (1 opened here): 1 unanswered; 0 segments sent again\nattributed: 2 packets (66.6 %)\nwithout a process: 1 packets, 300 bytes\n  \
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
            run(&args, &mut out, None).unwrap();
            String::from_utf8(out).unwrap()
        };
        let out = summary(false, "nginx");
        assert_eq!(
            below_the_table(&out),
            "1 packets, 100 bytes\nTCP connections: 1 (1 opened here): 1 unanswered; 0 segments sent again\nattributed: 1 packets (100.0 %)\nwithout a process: 0 packets, 0 bytes\n\
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
        let curl = ["curl", "1", "1", "100", "1", "200", "1", "unanswered", "0", "10.0.0.1,", "10.0.0.2"];
        assert_eq!(words(lines[1]), curl, "{out}");

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
