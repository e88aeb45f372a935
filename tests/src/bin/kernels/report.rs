//! The table of docs/LIMITS.md.

use std::fmt::Write;
use std::fs;

use recorder_tests::document;
use recorder_tests::rooms::root;

use crate::KERNELS;
use crate::hooks::HOOKS;

/// Who makes the table.
const MAKER: &str = "make test-kernels";
/// The document that has it.
const LIMITS: &str = "docs/LIMITS.md";

/// Writes the table into a document.
pub(crate) fn write(file: &str) {
    document::replace(file, MAKER, &table());
}

/// Panics unless the document has this very table.
pub(crate) fn assert_limits_say_so() {
    let text = fs::read_to_string(root().join(LIMITS)).unwrap_or_default();
    assert!(text.contains(&table()), "{LIMITS} has another table: run `{MAKER} KERNELS='--write {LIMITS}'`");
}

fn table() -> String {
    let names = KERNELS.map(|kernel| kernel.name).join(" | ");
    let mut text = format!("| attached | {names} |\n|---|{}\n", "---|".repeat(KERNELS.len()));
    for (hook, attached) in HOOKS {
        let cells = attached.map(|attached| if attached { "yes" } else { "-" }).join(" | ");
        // Writing to a string cannot fail.
        let _ = writeln!(text, "| {hook} | {cells} |");
    }
    text
}
