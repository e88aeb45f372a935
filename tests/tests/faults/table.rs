//! docs/RELIABILITY.md says what these tests show, and nothing else.

use std::collections::BTreeSet;

use recorder_tests::rooms::{files, root};

/// All tests that a row may name, as `file::test`: those of this file's folder, of the other live tests, and of the clock.
fn tests(folder: &str, wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let sources = files(folder, |path| path.ends_with(".rs") && wanted(path));
    let of_file = |path: &str, text: &str| {
        let name = path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let functions = text.split("#[test]").skip(1);
        let functions = functions.filter_map(|rest| rest.split_once("fn ")?.1.split('(').next());
        functions.map(|function| format!("{name}::{function}")).collect::<Vec<_>>()
    };
    sources.iter().flat_map(|source| of_file(&source.path, &source.text)).collect()
}

#[test]
fn each_row_of_the_table_is_a_test_and_each_test_of_a_fault_has_a_row() {
    let text = std::fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("it is there");
    let is_name = |word: &&str| word.contains("::") && !word.contains([' ', '/']);
    let named: BTreeSet<String> =
        text.split('`').skip(1).step_by(2).filter(is_name).map(str::to_owned).collect();
    let of_faults = tests("tests/tests/faults", |path| !path.ends_with("table.rs"));
    assert!(of_faults.len() > 25, "the sources are read: {of_faults:?}");
    let others = tests("tests/tests", |path| path.matches('/').count() == 2);
    let of_clock = tests("recorder/src/attribution", |path| path.ends_with("/clock.rs"));
    let is_there =
        |name: &&String| [&of_faults, &others, &of_clock].iter().any(|tests| tests.contains(*name));
    let missing: Vec<_> = named.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "docs/RELIABILITY.md names tests that are not there: {missing:#?}");
    let untold: Vec<_> = of_faults.difference(&named).collect();
    assert!(untold.is_empty(), "docs/RELIABILITY.md does not tell of these tests: {untold:#?}");
    let rows = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| fault"));
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 6, "six cells: {row}");
        assert!(cells[5].contains("::"), "the last one names a test: {row}");
    }
}
