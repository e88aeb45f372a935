//! docs/RELIABILITY.md says what these tests show, and nothing else.

use std::collections::BTreeSet;

use recorder_tests::rooms::{files, root};

/// All tests that a row may name, as `file::test`: those of this file's folder, of the other live tests, and of
/// what depends on the time of day.
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

/// What happens to the clock of an emulated machine, as `clocks::fault`: `make test-kernels` runs what stands in the list there.
fn faults_of_the_clock() -> BTreeSet<String> {
    let sources = files("tests/src/bin/kernels", |path| path.ends_with("/clocks.rs"));
    let text = sources.first().map_or("", |source| source.text.as_str());
    let list =
        text.split_once("const FAULTS").and_then(|(_, rest)| rest.split_once("= [")?.1.split_once(']'));
    let names = list.map_or("", |(list, _)| list).split(',').map(str::trim).filter(|name| !name.is_empty());
    names.map(|name| format!("clocks::{name}")).collect()
}

#[test]
fn each_row_of_the_table_is_a_test_and_each_test_of_a_fault_has_a_row() {
    let text = std::fs::read_to_string(root().join("docs/RELIABILITY.md")).expect("it is there");
    let is_name = |word: &&str| word.contains("::") && !word.contains([' ', '/']);
    let named: BTreeSet<String> =
        text.split('`').skip(1).step_by(2).filter(is_name).map(str::to_owned).collect();
    let mut of_faults = tests("tests/tests/faults", |path| !path.ends_with("table.rs"));
    assert!(of_faults.len() > 25, "the sources are read: {of_faults:?}");
    let emulated = faults_of_the_clock();
    assert!(emulated.len() > 2, "the list is read: {emulated:?}");
    of_faults.extend(emulated);
    let others = tests("tests/tests", |path| path.matches('/').count() == 2);
    let of_times = tests("recorder/src", |path| {
        ["attribution/clock.rs", "pipeline/files.rs"].iter().any(|file| path.ends_with(file))
    });
    let is_there =
        |name: &&String| [&of_faults, &others, &of_times].iter().any(|tests| tests.contains(*name));
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
