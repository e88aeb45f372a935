//! The Wiresharks that read our files: the machine's own, and those that tests/install-wiresharks unpacked beside it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::lab::{has_tool, in_ci, say, test_name};
use crate::process::{Output, must, run};

/// The versions that people have: Debian 12, Debian 13, the newest.
pub const VERSIONS: [&str; 3] = ["4.0", "4.4", "4.6"];

/// Lines that are no complaint about the file have one of these in them. The last is that of mergecap 4.6, which has lost the
/// process blocks itself.
const HARMLESS: [&str; 4] =
    ["Running as user", "reading from file", "dropped privs to", "while no DPIBs are present"];

/// How a reader says that a file was cut within a block; the second is libpcap's.
const CUT_SHORT: [&str; 2] = ["cut short in the middle of a packet", "truncated pcapng dump file"];
/// What capinfos adds to that.
const CAPINFOS_ADDS: [&str; 2] = ["An error occurred after reading", "will continue anyway"];

/// One Wireshark, with its programs.
#[derive(Clone, Debug)]
pub struct Wireshark {
    /// Where its programs are; none: on the path.
    folder: Option<PathBuf>,
    /// The names of the fields that it knows; asked for once.
    known: OnceLock<BTreeSet<String>>,
}

impl Wireshark {
    /// The machine's own.
    pub const fn own() -> Self {
        Self { folder: None, known: OnceLock::new() }
    }

    /// Those of [`VERSIONS`] that are here, each with its version. What is missing is skipped and said, once; in CI it is a
    /// failure.
    pub fn all() -> &'static [(&'static str, Self)] {
        static FOUND: OnceLock<Vec<(&str, Wireshark)>> = OnceLock::new();
        FOUND.get_or_init(|| {
            VERSIONS.into_iter().filter_map(|version| Some((version, Self::here(version)?))).collect()
        })
    }

    fn here(version: &str) -> Option<Self> {
        let found = Self::find(version);
        if found.is_none() {
            let reason =
                format!("there is no Wireshark {version} (tests/install-wiresharks has 4.4 and 4.6)");
            assert!(!in_ci(), "in CI nothing is skipped, but {reason}");
            say(&format!("skipped: {}: {reason}", test_name()));
        }
        found
    }

    fn find(version: &str) -> Option<Self> {
        let folder = unpacked().join(version).join("bin");
        let unpacked = Self { folder: Some(folder), known: OnceLock::new() };
        [Self::own(), unpacked].into_iter().find(|wireshark| wireshark.is(version))
    }

    fn is(&self, version: &str) -> bool {
        let is_there = self.folder.as_ref().map_or_else(|| has_tool("tshark"), |folder| folder.is_dir());
        let said = || run(self.command("tshark").arg("--version")).stdout;
        is_there && said().starts_with(&format!("TShark (Wireshark) {version}."))
    }

    /// One of its programs: `tshark`, `capinfos`, `editcap`, `mergecap`, `dumpcap`.
    pub fn command(&self, program: &str) -> Command {
        match &self.folder {
            Some(folder) => Command::new(folder.join(program)),
            None => Command::new(program),
        }
    }

    /// The same program, run by somebody who is not root.
    pub fn unprivileged(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command.arg(self.command(program).get_program());
        command
    }

    /// The fields of the packets that the display filter lets through, one row per packet; several values of one field are
    /// joined by a semicolon. Anything tshark says on standard error is a failure.
    pub fn fields(&self, file: &Path, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
        let output = must(&mut self.fields_command(file, filter, names));
        assert_no_complaint(&output);
        rows(&output)
    }

    /// The command that prints them.
    pub fn fields_command(&self, file: &Path, filter: &str, names: &[&str]) -> Command {
        let mut command = self.command("tshark");
        // Fragments are shown as they were captured, not put together.
        command.args(["-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]);
        command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields"]);
        command.args(["-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;"]);
        for name in names {
            command.args(["-e", name]);
        }
        command
    }

    /// Whether this tshark knows the field.
    pub fn knows_field(&self, name: &str) -> bool {
        let ask = || must(self.command("tshark").args(["-G", "fields"])).stdout;
        let name_in = |line: &str| line.split('\t').nth(2).map(str::to_string);
        self.known.get_or_init(|| ask().lines().filter_map(name_in).collect()).contains(name)
    }
}

/// Where tests/install-wiresharks puts them: in the folder that cargo builds into.
fn unpacked() -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    // Tests are in target/PROFILE/deps, programs in target/PROFILE.
    let target = own.ancestors().find(|folder| folder.join("wireshark").is_dir());
    target.unwrap_or(&own).join("wireshark")
}

/// What such a command printed: rows of fields.
pub fn rows(output: &Output) -> Vec<Vec<String>> {
    output.stdout.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
}

/// Panics with the evidence if a reader has something to say against the file.
pub fn assert_no_complaint(output: &Output) {
    let complaints = complaints(output);
    assert!(complaints.is_empty(), "complaints: {complaints:#?}\n{output}");
}

/// Panics with the evidence unless a reader says that the file was cut within a block, and nothing else.
pub fn assert_says_cut_short(output: &Output) {
    let complaints = complaints(output);
    let says = |line: &str, words: &[&str]| words.iter().any(|words| line.contains(words));
    let others: Vec<&str> = complaints
        .iter()
        .copied()
        .filter(|line| !says(line, &CUT_SHORT) && !says(line, &CAPINFOS_ADDS))
        .collect();
    assert!(others.is_empty(), "other complaints: {others:#?}\n{output}");
    let says_so = complaints.iter().any(|line| says(line, &CUT_SHORT));
    assert!(says_so, "that it is cut short is not said\n{output}");
}

fn complaints(output: &Output) -> Vec<&str> {
    let harmless = |line: &str| HARMLESS.iter().any(|words| line.contains(words));
    output.stderr.lines().filter(|line| !line.trim().is_empty() && !harmless(line)).collect()
}
