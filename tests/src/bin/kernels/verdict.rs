//! What the guest handed out, held to what is expected.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use recorder_tests::judge::{Judged, Verdict, judge as judge_packets};
use recorder_tests::lab::say;
use recorder_tests::truth;
use serde_json::Value;

use crate::Kernel;
use crate::clocks;
use crate::guest::{DOCTOR, FAILURE, RECORDING, RELEASE, STRICT, TRUTH};
use crate::hooks::HOOKS;
use crate::samples::{SAMPLES, assert_replayed};
use crate::stories::{STORIES, Story};

/// Panics unless all is as expected; says what was found in any case.
pub(crate) fn judge(kernel: &Kernel, column: usize, results: &Path, of_samples: bool) {
    let release = release(results);
    let name = format!("{} ({release})", kernel.name);
    let mut checks: Vec<Check<'_>> = vec![
        Box::new(|| judge_hooks(&name, column, results)),
        Box::new(|| judge_strict(&name, column, results)),
    ];
    if of_samples {
        checks.extend(checks_of_samples(&name, results));
    } else {
        let stories = STORIES.iter();
        checks.extend(stories.map(|story| -> Check<'_> { Box::new(|| judge_story(&name, story, results)) }));
        if kernel.sets_clock {
            checks.push(Box::new(|| clocks::judge(&name, results)));
        }
    }
    assert_all_hold(&name, checks);
}

/// Panics unless the samples are as expected.
pub(crate) fn judge_samples(name: &str, results: &Path) {
    assert_all_hold(name, checks_of_samples(name, results).collect());
}

type Check<'a> = Box<dyn Fn() + 'a>;

fn checks_of_samples<'a>(name: &'a str, results: &'a Path) -> impl Iterator<Item = Check<'a>> {
    SAMPLES.iter().map(move |story| -> Check<'a> {
        Box::new(move || {
            judge_story(name, story, results);
            assert_replayed(name, story, results);
        })
    })
}

fn assert_all_hold(name: &str, checks: Vec<Check<'_>>) {
    // All are looked at, also after one that failed.
    let failed = checks.iter().filter(|check| catch_unwind(AssertUnwindSafe(check)).is_err()).count();
    assert_eq!(failed, 0, "{name}: {failed} of {} checks failed", checks.len());
}

/// The kernel that the guest had.
pub(crate) fn release(results: &Path) -> String {
    fs::read_to_string(results.join(RELEASE)).expect("the guest tells its kernel")
}

/// What is missing of the sandbox on each kernel: Landlock came with 5.13, its rules for TCP with 6.7.
const NO_LANDLOCK: [Option<&str>; 4] = [
    Some("not Landlock: the kernel does not have it"),
    Some("Landlock: in part: its rules for TCP need Linux 6.7"),
    None,
    None,
];

/// Every program is attached that the table says, and all others are not needed: nothing is refused.
fn judge_hooks(name: &str, column: usize, results: &Path) {
    let text = fs::read_to_string(results.join(DOCTOR)).expect("the guest asks the doctor");
    let findings: Vec<Value> = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{name}: doctor --json is not JSON: {error}\n{text}"));
    let in_state = |wanted: &[&str]| {
        let is_wanted = |finding: &&Value| wanted.iter().any(|state| finding["state"] == *state);
        findings.iter().filter(is_wanted).cloned().collect::<Vec<Value>>()
    };
    let (sandbox, refused): (Vec<_>, Vec<_>) =
        in_state(&["missing", "partly"]).into_iter().partition(|finding| finding["what"] == "sandbox");
    let told = sandbox.first().map(|finding| finding["detail"].as_str().unwrap_or_default());
    match NO_LANDLOCK[column] {
        None => assert_eq!(told, None, "{name}: the sandbox is whole there"),
        Some(why) => assert!(told.is_some_and(|told| told.contains(why)), "{name}: {why}: {told:?}"),
    }
    assert!(refused.is_empty(), "{name}: does not work: {refused:#?}");
    let hooks = |found: Vec<Value>| -> BTreeSet<String> {
        found.iter().filter_map(|finding| finding["what"].as_str()).filter(is_hook).map(Into::into).collect()
    };
    let active = hooks(in_state(&["ok"]));
    let expected: BTreeSet<String> =
        HOOKS.iter().filter(|(_, attached)| attached[column]).map(|(hook, _)| (*hook).into()).collect();
    assert_eq!(active, expected, "{name}: attached are (left), the table says (right)\n{text}");
    let all: BTreeSet<String> = HOOKS.iter().map(|(hook, _)| (*hook).into()).collect();
    assert_eq!(hooks(findings.clone()), all, "{name}: the doctor knows (left), the table has (right)");
    say(&format!("{name}: {} hooks attached, as the table says", active.len()));
}

/// `--sandbox strict` records where the sandbox is whole, and says elsewhere what is missing.
fn judge_strict(name: &str, column: usize, results: &Path) {
    let text = fs::read_to_string(results.join(STRICT)).expect("the guest tries it");
    let (code, said) = text.split_once('\n').unwrap_or((&text, ""));
    match NO_LANDLOCK[column] {
        None => assert_eq!(code, "0", "{name}: strict records there: {said}"),
        Some(_) => assert!(code == "2" && said.contains("Landlock"), "{name}: strict refuses there: {text}"),
    }
}

/// Hooks are called `kind/place`; packet capture and other findings have words for names.
fn is_hook(what: &&str) -> bool {
    what.contains('/') && !what.contains(' ')
}

fn judge_story(name: &str, story: &Story, results: &Path) {
    let context = format!("{name}: {}", story.name);
    if let Ok(failure) = fs::read_to_string(results.join(story.file(FAILURE))) {
        panic!("{context}: could not be played: {failure}");
    }
    let truths = truth::read(results.join(story.file(TRUTH)));
    let judgement = judge_packets(&results.join(story.file(RECORDING)), &truths);
    if !story.loses {
        return judgement.assert_all_right(story.at_least, &context);
    }
    say(&format!("{context}: {judgement}"));
    let bad: Vec<String> = judgement
        .packets
        .iter()
        .filter(|judged| judged.verdict == Verdict::Wrong)
        .map(Judged::to_string)
        .collect();
    assert!(bad.is_empty(), "{context}: wrong\n{}", bad.join("\n"));
    assert!(judgement.packets.len() >= story.at_least, "{context}: {judgement}");
}
