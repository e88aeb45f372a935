//! The guest's side: asks the recorder what works there, and plays the stories. What came of it is left in a folder:
//! `doctor.json`, what came of `--sandbox strict`, and for each story its recording and what the programs said, or why it could not be played.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use recorder_tests::lab::say;
use recorder_tests::process::run;
use recorder_tests::recorder;

use crate::clocks;
use crate::samples::SAMPLES;
use crate::stories::{STORIES, Stage, Story};

/// `recorder doctor --json`.
pub(crate) const DOCTOR: &str = "doctor.json";
/// The exit code of a recording that insists on the whole sandbox, and below it what that said.
pub(crate) const STRICT: &str = "strict";
/// The release of the kernel that runs.
pub(crate) const RELEASE: &str = "release";
/// Endings of the names of what a story leaves.
pub(crate) const RECORDING: &str = "pcapng";
pub(crate) const TRUTH: &str = "jsonl";
pub(crate) const FAILURE: &str = "failure";

/// A word on the kernel's command line, of which it makes a variable for the first process: the stories of samples are played, and no
/// others.
pub(crate) const ONLY_SAMPLES: &str = "ONLY_SAMPLES";
/// Another one: the clock of this machine is ours to set.
pub(crate) const SETS_CLOCK: &str = "SETS_CLOCK";

/// Runs everything, in the guest.
pub(crate) fn run_all(out: &Path) {
    let doctor = run(Command::new(recorder::binary()).args(["doctor", "--json"]));
    fs::write(out.join(DOCTOR), &doctor.stdout).expect("cannot write");
    let strict =
        ["record", "-q", "-i", "any", "-a", "duration:1", "--sandbox", "strict", "-w", "/tmp/strict.pcapng"];
    let strict = run(Command::new(recorder::binary()).args(strict));
    let code = strict.status.code().expect("it ends by itself");
    fs::write(out.join(STRICT), format!("{code}\n{}", strict.stderr)).expect("cannot write");
    // The line that the kernel was booted with says so.
    if std::env::var_os(ONLY_SAMPLES).is_some() {
        return play_all(SAMPLES.iter(), out);
    }
    play_all(STORIES.iter(), out);
    if std::env::var_os(SETS_CLOCK).is_some() {
        // Last, for after it the clock is wrong.
        say("playing: the clock is set, the machine sleeps");
        attempt(&out.join(clocks::file(FAILURE)), || clocks::play(out));
    }
}

/// Plays stories; leaves in a folder what came of each, and which kernel this is.
pub(crate) fn play_all<'a>(stories: impl Iterator<Item = &'a Story>, out: &Path) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc is there");
    fs::write(out.join(RELEASE), release.trim()).expect("cannot write");
    for story in stories {
        say(&format!("playing: {}", story.name));
        attempt(&out.join(story.file(FAILURE)), || play(story, out));
    }
}

/// Plays something; leaves in a file why that was not possible.
fn attempt(failure: &Path, play: impl FnOnce()) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(play)) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        let text = text.unwrap_or_else(|| "it does not tell why".to_string());
        fs::write(failure, text).expect("cannot write");
    }
}

fn play(story: &Story, out: &Path) {
    let stage = Stage::new();
    (story.play)(&stage);
    fs::copy(stage.recording(), out.join(story.file(RECORDING))).expect("cannot copy the recording");
    fs::copy(stage.lab.log(), out.join(story.file(TRUTH))).expect("cannot copy the truth");
}
