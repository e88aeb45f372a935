//! Other people's readers: tshark, capinfos, tcpdump.

use std::path::Path;
use std::process::Command;

use crate::process::{Output, must};

/// What is no complaint about the file.
const HARMLESS: [&str; 3] = ["Running as user", "reading from file", "dropped privs to"];

/// The fields of the packets that the display filter lets through, one row per packet; several values of one field are
/// joined by a semicolon. Anything tshark says on standard error is a failure.
pub fn fields(file: &Path, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
    let mut command = Command::new("tshark");
    // Fragments are shown as they were captured, not put together.
    command.args(["-n", "-o", "ip.defragment:FALSE", "-o", "ipv6.defragment:FALSE"]);
    command.arg("-r").arg(file).args(["-Y", filter, "-T", "fields"]);
    command.args(["-E", "separator=/t", "-E", "occurrence=a", "-E", "aggregator=;"]);
    for name in names {
        command.args(["-e", name]);
    }
    let output = must(&mut command);
    assert_no_complaint(&output);
    output.stdout.lines().map(|line| line.split('\t').map(str::to_string).collect()).collect()
}

/// Whether this tshark knows the field.
pub fn knows_field(name: &str) -> bool {
    let known = must(Command::new("tshark").args(["-G", "fields"])).stdout;
    known.lines().any(|line| line.split('\t').nth(2) == Some(name))
}

/// capinfos and tcpdump read the file to its end, and have nothing to say against it.
pub fn assert_others_read(file: &Path) {
    assert_no_complaint(&must(Command::new("capinfos").arg(file)));
    assert_no_complaint(&must(Command::new("tcpdump").args(["-n", "-r"]).arg(file)));
}

fn assert_no_complaint(output: &Output) {
    let harmless = |line: &str| HARMLESS.iter().any(|start| line.starts_with(start));
    let complaints: Vec<&str> =
        output.stderr.lines().filter(|line| !line.trim().is_empty() && !harmless(line)).collect();
    assert!(complaints.is_empty(), "complaints: {complaints:#?}\n{output}");
}
