//! What is left when somebody saves a recording of ours with another program: the table in docs/FORMAT.md is made here, and
//! held to what is seen here. `make readers` writes it anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use pcap_parser::{Block, PcapNGOption};
use recorder_tests::blocks::{Ending, walk};
use recorder_tests::lab::{Lab, say};
use recorder_tests::process::must;
use recorder_tests::recorder::binary;
use recorder_tests::rooms::root;
use recorder_tests::seen::{Seen, by_pcap_parser, json, of_pcap};
use recorder_tests::wireshark::{VERSIONS, Wireshark, assert_no_complaint};
use recorder_tests::{blocks, document};
use serde_json::Value;

use crate::recordings::{Recorded, lab, live, sample};

const DOCUMENT: &str = "docs/FORMAT.md";
const MAKER: &str = "make readers";
/// In the environment: write the table instead of comparing it.
const WRITE: &str = "WRITE_TABLES";

// --- what there is to keep

/// Where something stands that we write; numbers are codes of options.
#[derive(Clone, Copy)]
enum Place {
    Bytes,
    Time,
    Packet(u16),
    Process(u16),
    Custom,
    Section(u16),
    Interface(u16),
    SnapLength,
    /// All options from the first to the second.
    Statistics(u16, u16),
    /// Keys of a process in `show --json`.
    Show(&'static [&'static str]),
    /// Keys of a process in `summary --json`.
    Summary(&'static [&'static str]),
}

const ITEMS: [(&str, Place); 26] = [
    ("packets, both lengths", Place::Bytes),
    ("times", Place::Time),
    ("packet: `opt_comment`", Place::Packet(1)),
    ("packet: `epb_flags`", Place::Packet(2)),
    ("packet: `epb_processid_threadid`", Place::Packet(8)),
    ("packet: process index 0x8001", Place::Packet(0x8001)),
    ("process block: name", Place::Process(2)),
    ("process block: UUID", Place::Process(4)),
    ("process block: path", Place::Process(3)),
    ("process block: JSON", Place::Process(1)),
    ("Process Information block", Place::Custom),
    ("section: comments", Place::Section(1)),
    ("section: hardware", Place::Section(2)),
    ("section: operating system", Place::Section(3)),
    ("section: application", Place::Section(4)),
    ("interface: name", Place::Interface(2)),
    ("interface: description", Place::Interface(3)),
    ("interface: MAC address", Place::Interface(6)),
    ("interface: filter", Place::Interface(11)),
    ("interface: snap length", Place::SnapLength),
    ("statistics: counters", Place::Statistics(2, 8)),
    ("statistics: comments", Place::Statistics(1, 1)),
    ("`recorder show`: name and process id", Place::Show(&["name", "pid"])),
    ("`recorder show`: thread id", Place::Show(&["tid"])),
    ("`recorder show`: path, user, cgroup, arguments", Place::Show(&["path", "uid", "cgroup", "cmdline"])),
    ("`recorder summary`: name, process id, path", Place::Summary(&["name", "pid", "path"])),
];

/// What a file has in one place.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Values {
    /// Of each packet, in their order.
    Each(Vec<Option<Vec<u8>>>),
    /// Wherever it stands.
    All(BTreeSet<Vec<u8>>),
}

impl Values {
    /// `yes`, `in part` or `no`.
    fn kept_in(&self, saved: &Self) -> &'static str {
        let (kept, lost) = match (self, saved) {
            (Self::Each(ours), Self::Each(theirs)) => (ours == theirs, theirs.iter().all(Option::is_none)),
            (Self::All(ours), Self::All(theirs)) => (ours.is_subset(theirs), ours.is_disjoint(theirs)),
            _ => panic!("values of different places"),
        };
        match (kept, lost) {
            (true, _) => "yes",
            (_, true) => "no",
            _ => "in part",
        }
    }

    fn is_nothing(&self) -> bool {
        match self {
            Self::Each(values) => values.iter().all(Option::is_none),
            Self::All(values) => values.is_empty(),
        }
    }
}

/// What a file in pcapng or pcap has in this place.
fn values(file: &Path, place: Place) -> Values {
    if is_pcap(file) {
        return values_of_pcap(file, place);
    }
    let mut each = Vec::new();
    let mut all = BTreeSet::new();
    let ending = walk(file, |block| match (block, place) {
        (Block::EnhancedPacket(packet), Place::Packet(code)) => each.push(option(&packet.options, code)),
        (Block::ProcessInformation(process), Place::Process(code)) => {
            let pid = process.process_id.to_le_bytes();
            all.extend(option(&process.options, code).map(|value| [&pid[..], &value].concat()));
        }
        (Block::Custom(custom), Place::Custom) => {
            all.insert(custom.data.to_vec());
        }
        (Block::SectionHeader(section), Place::Section(code)) => {
            all.extend(options(&section.options, code, code))
        }
        (Block::InterfaceDescription(interface), Place::Interface(code)) => {
            all.extend(option(&interface.options, code));
        }
        (Block::InterfaceDescription(interface), Place::SnapLength) => {
            all.insert(interface.snaplen.to_le_bytes().to_vec());
        }
        (Block::InterfaceStatistics(statistics), Place::Statistics(first, last)) => {
            all.extend(options(&statistics.options, first, last));
        }
        _ => {}
    });
    assert_eq!(ending, Ending::Whole, "{} is cut", file.display());
    match place {
        Place::Bytes | Place::Time => packets(&by_pcap_parser(file).0, place),
        Place::Show(keys) => shown(file, keys),
        Place::Summary(keys) => Values::All(summary(file, keys)),
        Place::Packet(_) => Values::Each(each),
        _ => Values::All(all),
    }
}

/// The magic numbers of pcap, in microseconds and in nanoseconds (pcap-savefile(5)).
fn is_pcap(file: &Path) -> bool {
    let bytes = fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    [0xa1b2_c3d4_u32, 0xa1b2_3c4d].iter().any(|magic| bytes.starts_with(&magic.to_le_bytes()))
}

/// That format has packets and times.
fn values_of_pcap(file: &Path, place: Place) -> Values {
    let seen = of_pcap(file);
    match place {
        Place::Bytes | Place::Time => packets(&seen, place),
        Place::Packet(_) => Values::Each(vec![None; seen.len()]),
        Place::Show(keys) => shown(file, keys),
        Place::Summary(keys) => Values::All(summary(file, keys)),
        _ => Values::All(BTreeSet::new()),
    }
}

fn packets(seen: &[Seen], place: Place) -> Values {
    let value = |packet: &Seen| match place {
        Place::Time => packet.time_ns.to_le_bytes().to_vec(),
        _ => [&packet.length.to_le_bytes()[..], packet.data.as_deref().unwrap_or_default()].concat(),
    };
    Values::Each(seen.iter().map(|packet| Some(value(packet))).collect())
}

fn option(of: &[PcapNGOption<'_>], code: u16) -> Option<Vec<u8>> {
    options(of, code, code).next()
}

fn options<'a>(of: &'a [PcapNGOption<'_>], first: u16, last: u16) -> impl Iterator<Item = Vec<u8>> + 'a {
    let wanted = move |option: &&PcapNGOption<'_>| (first..=last).contains(&option.code.0);
    of.iter().filter(wanted).map(|option| blocks::bytes(option).to_vec())
}

/// These keys of the ends of each packet, as text.
fn shown(file: &Path, keys: &[&str]) -> Values {
    Values::Each(json(file, Ending::Whole).iter().map(|packet| only(packet, keys)).collect())
}

/// These keys of each process, as text.
fn summary(file: &Path, keys: &[&str]) -> BTreeSet<Vec<u8>> {
    let output = must(Command::new(binary()).args(["summary", "--json"]).arg(file)).stdout;
    let summary: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    let processes = summary["processes"].as_array().expect("a summary has processes");
    let of = |process: &Value| keys.iter().map(|key| process[key].to_string()).collect::<Vec<_>>().concat();
    processes.iter().map(|process| of(process).into_bytes()).collect()
}

/// These keys of both ends of a packet; nothing if it has none of them.
fn only(packet: &Value, keys: &[&str]) -> Option<Vec<u8>> {
    let ends = ["sender", "receiver"]
        .map(|end| keys.iter().filter_map(|key| packet[end].get(key)).collect::<Vec<_>>());
    let has_any = ends.iter().any(|end| !end.is_empty());
    has_any.then(|| format!("{ends:?}").into_bytes())
}

// --- who saves

/// A program that saves recordings again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Program {
    Editcap,
    Tshark,
    Mergecap,
    Tcpdump,
}

impl Program {
    const fn name(self) -> &'static str {
        match self {
            Self::Editcap => "editcap",
            Self::Tshark => "tshark -w",
            Self::Mergecap => "mergecap",
            Self::Tcpdump => "tcpdump -w",
        }
    }

    /// Saves the files as `to`: the last one alone, or (mergecap) all of them together.
    fn save(self, wireshark: &Wireshark, files: &[PathBuf], to: &Path) {
        let last = files.last().expect("there is a file to save");
        let mut command = match self {
            Self::Editcap | Self::Mergecap | Self::Tshark => {
                wireshark.command(self.name().trim_end_matches(" -w"))
            }
            Self::Tcpdump => Command::new("tcpdump"),
        };
        match self {
            Self::Editcap => command.arg(last).arg(to),
            Self::Mergecap => command.arg("-w").arg(to).args(files),
            Self::Tshark | Self::Tcpdump => command.arg("-r").arg(last).arg("-w").arg(to),
        };
        assert_no_complaint(&must(&mut command));
    }

    /// Which of the files are in what it saves.
    fn saves(self, files: &[PathBuf]) -> &[PathBuf] {
        if self == Self::Mergecap { files } else { &files[files.len() - 1..] }
    }
}

/// Each program of each Wireshark that is here, and tcpdump; with the Wireshark's version.
fn programs() -> Vec<(Program, &'static str, &'static Wireshark)> {
    let wiresharks = Wireshark::all();
    let of_all = |program| wiresharks.iter().map(move |(version, wireshark)| (program, *version, wireshark));
    let mut programs: Vec<_> =
        [Program::Editcap, Program::Tshark, Program::Mergecap].into_iter().flat_map(of_all).collect();
    static OWN: Wireshark = Wireshark::own();
    programs.push((Program::Tcpdump, "", &OWN));
    programs
}

// --- the table

/// What one program leaves, in the order of [`ITEMS`].
struct Column {
    program: Program,
    version: &'static str,
    cells: Vec<&'static str>,
}

fn column(
    program: Program,
    version: &'static str,
    wireshark: &Wireshark,
    files: &[PathBuf],
    lab: &Lab,
) -> Column {
    let saved = lab.path(format!("saved-by-{program:?}-{version}"));
    program.save(wireshark, files, &saved);
    let cell = |(name, place): (&str, Place)| {
        let before = together(program.saves(files).iter().map(|file| values(file, place)));
        assert!(!before.is_nothing(), "nothing to keep: {name}");
        before.kept_in(&values(&saved, place))
    };
    Column { program, version, cells: ITEMS.into_iter().map(cell).collect() }
}

/// The values of files in the order of their packets.
fn together(files: impl Iterator<Item = Values>) -> Values {
    let join = |one, other| match (one, other) {
        (Values::Each(one), Values::Each(other)) => Values::Each([one, other].concat()),
        (Values::All(one), Values::All(other)) => Values::All(&one | &other),
        _ => panic!("values of different places"),
    };
    files.reduce(join).expect("there is a file")
}

/// As markdown; programs that keep the same share a column.
fn table(columns: &[Column]) -> String {
    let mut groups: Vec<(String, &[&str])> = Vec::new();
    for Column { program, version, cells } in columns {
        let name = program.name();
        match groups.iter_mut().find(|(_, of_group)| of_group == cells) {
            Some((heading, _)) if heading.contains(name) => *heading += &format!(", {version}"),
            Some((heading, _)) => *heading += &format!("; `{name}` {version}"),
            None => groups.push((format!("`{name}` {version}"), cells)),
        }
    }
    let mut text = String::from("| |");
    for (heading, _) in &groups {
        // Writing to a string cannot fail.
        let _ = write!(text, " {} |", heading.trim_end());
    }
    text += &format!("\n|---|{}", "---|".repeat(groups.len()));
    for (row, (name, _)) in ITEMS.iter().enumerate() {
        let _ = write!(text, "\n| {name} |");
        for (_, cells) in &groups {
            let _ = write!(text, " {} |", cells[row]);
        }
    }
    text + "\n"
}

#[test]
fn the_format_says_what_each_program_keeps_when_it_saves_a_recording() {
    let Some(recordings) = live() else { return };
    let lab = lab();
    let files = together_with_the_sample(&recordings[0], &lab);
    let columns: Vec<Column> = programs()
        .into_iter()
        .map(|(program, version, wireshark)| column(program, version, wireshark, &files, &lab))
        .collect();
    let seen = table(&columns);
    if columns.len() <= 3 * VERSIONS.len() {
        say("skipped: the table of docs/FORMAT.md: it is of all Wiresharks");
        return;
    }
    let path = root().join(DOCUMENT);
    let path = path.to_str().expect("our paths are UTF-8");
    if std::env::var_os(WRITE).is_some() {
        document::replace(path, MAKER, &seen);
    }
    let written = document::part(path, MAKER);
    assert_eq!(
        written.trim(),
        seen.trim(),
        "\n{DOCUMENT} says\n{written}\nand seen is\n{seen}\n`{MAKER}` writes it anew"
    );
}

/// The sample, which is older, and the recording.
fn together_with_the_sample(recorded: &Recorded, lab: &Lab) -> Vec<PathBuf> {
    let older = lab.path("sample.pcapng");
    fs::write(&older, sample().bytes).expect("cannot write the sample");
    vec![older, recorded.put(lab)]
}
