//! The table.

use std::fmt::Write;
use std::fs;

use recorder_tests::document;
use recorder_tests::rooms::root;

use crate::plan::{Mode, Plan};
use crate::rustnet::Compared;
use crate::scenario::Row;

const MAKER: &str = "make accuracy";

/// Everything, as markdown. Rows of one scenario in several modes stand beside each other.
pub(crate) fn text(plan: &Plan, scenarios: &[Vec<Row>], compared: Option<&[Compared]>) -> String {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let circumstances = document::circumstances();
    let mut text = format!("Made by `{MAKER}` (`accuracy {}`), {circumstances}.\n\n", arguments.join(" "));
    if cfg!(debug_assertions) {
        text.push_str("**A debug build.**\n\n");
    }
    text.push_str("| scenario |");
    for mode in &plan.modes {
        // Writing to a string cannot fail.
        let _ = write!(text, " {}: packets | right | wrong | without | both ends |", mode.name());
    }
    text.push_str("\n|---|");
    text.push_str(&"---:|---:|---:|---:|---:|".repeat(plan.modes.len()));
    text.push('\n');
    for rows in scenarios {
        text.push_str(&line(rows));
    }
    text.push_str(&line(&totals(plan, scenarios)));
    compared.into_iter().for_each(|rows| text.push_str(&comparison(rows)));
    text.push_str("\nWhat each scenario is, why packets have no owner, and what else it tells:\n\n");
    for rows in scenarios {
        rows.iter().enumerate().for_each(|(number, row)| text.push_str(&explanation(row, number == 0)));
    }
    text.trim_end().to_string() + "\n"
}

fn line(rows: &[Row]) -> String {
    let mut line = format!("| {} |", rows.first().map_or("", |row| row.scenario));
    for Row { packets, right, wrong, unattributed, both_named, failures, .. } in rows {
        let share = 100.0 * *both_named as f64 / (*packets).max(1) as f64;
        let wrong = if *wrong == 0 { "0".to_string() } else { format!("**{wrong}**") };
        let mark = if failures.is_empty() { "" } else { " !" };
        let _ = write!(line, " {packets}{mark} | {right} | {wrong} | {unattributed} | {share:.1} % |");
    }
    line + "\n"
}

fn totals(plan: &Plan, scenarios: &[Vec<Row>]) -> Vec<Row> {
    let total = |mode: Mode| {
        let rows = || scenarios.iter().flatten().filter(move |row| row.mode == mode);
        let sum = |figure: fn(&Row) -> usize| rows().map(figure).sum();
        Row {
            scenario: "all",
            what: "",
            limits: None,
            mode,
            packets: sum(|row| row.packets),
            right: sum(|row| row.right),
            wrong: sum(|row| row.wrong),
            unattributed: sum(|row| row.unattributed),
            both_named: sum(|row| row.both_named),
            reasons: Default::default(),
            notes: Vec::new(),
            failures: Vec::new(),
        }
    };
    plan.modes.iter().map(|mode| total(*mode)).collect()
}

fn explanation(row: &Row, is_first: bool) -> String {
    let mut text = String::new();
    if is_first {
        let _ = writeln!(text, "- **{}**: {}.", row.scenario, row.what);
        if let Some(words) = row.limits {
            let _ = writeln!(text, "  Expected to lack some owners; LIMITS: \"{words}\".");
        }
    }
    let reasons: Vec<String> =
        row.reasons.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    if !reasons.is_empty() {
        let _ =
            writeln!(text, "  {}: without any owner in the file: {}.", row.mode.name(), reasons.join(", "));
    }
    for note in &row.notes {
        let _ = writeln!(text, "  {}: {note}.", row.mode.name());
    }
    for failure in &row.failures {
        let first = failure.lines().next().unwrap_or_default();
        let _ = writeln!(text, "  **{}: not as expected: {first}**", row.mode.name());
    }
    text
}

/// The same workload under RustNet and under the recorder.
fn comparison(rows: &[Compared]) -> String {
    let mut text = String::from(
        "\n### Beside RustNet\n\nClients on the recorded side of a veth pair, IPv4; what counts is the process at this end. \
         RustNet: `rustnet -i eth1 --headless --output json --no-resolve-dns --no-geoip --no-uid-drop --no-sandbox --pcapng-export FILE`.\n\n\
         | workload | recorder | packets | right | wrong | without |\n|---|---|---:|---:|---:|---:|\n",
    );
    for Compared { workload, recorder, packets, right, wrong, unnamed } in rows {
        let _ = writeln!(text, "| {workload} | {recorder} | {packets} | {right} | {wrong} | {unnamed} |");
    }
    text.push_str("\n### The scenarios\n");
    text
}

/// Replaces the table in the document.
pub(crate) fn write(path: &str, text: &str) {
    document::replace(path, MAKER, text);
}

/// Whether docs/LIMITS.md holds these words, wherever its lines break.
pub(crate) fn limits_say(words: &str) -> bool {
    let path = root().join("docs/LIMITS.md");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
    let one_line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    one_line.contains(words)
}
