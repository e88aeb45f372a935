//! Other people's readers, as far as this machine has them: tshark, capinfos, tcpdump. All versions are in `wireshark`.

use std::path::Path;
use std::process::Command;

use crate::process::must;
use crate::wireshark::{Wireshark, assert_no_complaint};

/// As [`Wireshark::fields`], of the machine's own tshark.
pub fn fields(file: &Path, filter: &str, names: &[&str]) -> Vec<Vec<String>> {
    Wireshark::own().fields(file, filter, names)
}

/// Whether the machine's own tshark knows the field.
pub fn knows_field(name: &str) -> bool {
    Wireshark::own().knows_field(name)
}

/// capinfos and tcpdump read the file to its end, and have nothing to say against it.
pub fn assert_others_read(file: &Path) {
    assert_no_complaint(&must(Command::new("capinfos").arg(file)));
    assert_no_complaint(&must(Command::new("tcpdump").args(["-n", "-r"]).arg(file)));
}
