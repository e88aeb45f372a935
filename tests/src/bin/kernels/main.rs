//! The kernel matrix: boots each of Debian's cloud kernels in an emulated machine, has it load every program and record
//! programs that say what they did, and judges the recordings out here as the other tests do.
//!
//! The same binary runs on both sides: `kernels` here, `kernels guest` in the machine.
#![expect(clippy::expect_used, reason = "what cannot be set up cannot be judged")]
#![expect(clippy::panic, reason = "the same")]

mod clocks;
mod guest;
mod hooks;
mod image;
mod machine;
mod packages;
mod report;
mod samples;
mod stories;
mod verdict;

use std::path::{Path, PathBuf};
use std::thread;

use recorder_tests::lab::{machine_allows, say};

const USAGE: &str = "usage: kernels [--write FILE | --samples FOLDER] [KERNEL...]
  KERNEL             5.10, 6.1, 6.12, newest; all without one
  --write FILE       also replace the table of hooks in FILE
  --samples FOLDER   play nothing but the samples with kept events, and put them there; `here`: on this machine's kernel";

/// In place of a kernel: this machine's own.
const HERE: &str = "here";

/// The programs that a run needs.
const TOOLS: [&str; 12] = [
    "apt-get",
    "apt-cache",
    "dpkg",
    "busybox",
    "modinfo",
    "xz",
    "strip",
    "ldd",
    "ip",
    "tar",
    "tshark",
    "qemu-system-x86_64",
];

/// A kernel of the matrix.
pub(crate) struct Kernel {
    /// What it is called.
    pub(crate) name: &'static str,
    /// The Debian release that has it.
    pub(crate) release: &'static str,
    /// Whether the clock is set there: what becomes of that is for us and not for the kernel to say, and takes minutes.
    pub(crate) sets_clock: bool,
}

/// The kernels, oldest first.
pub(crate) const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", release: "bullseye-security", sets_clock: false },
    Kernel { name: "6.1", release: "bookworm", sets_clock: true },
    Kernel { name: "6.12", release: "trixie", sets_clock: false },
    Kernel { name: "newest", release: "sid", sets_clock: true },
];

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [side, out] = arguments.as_slice()
        && side == "guest"
    {
        return guest::run_all(Path::new(out));
    }
    let mut value_of = |option: &str| {
        let at = arguments.iter().position(|argument| argument == option)?;
        arguments.remove(at);
        Some(if at < arguments.len() { arguments.remove(at) } else { usage() })
    };
    let (write, samples) = (value_of("--write"), value_of("--samples").map(PathBuf::from));
    let here = samples.is_some() && arguments.iter().any(|name| name == HERE);
    arguments.retain(|name| !here || name != HERE);
    let known = |name: &String| KERNELS.iter().any(|kernel| kernel.name == name);
    if !arguments.iter().all(known) {
        usage();
    }
    if !machine_allows(&TOOLS) {
        return;
    }
    if let Some(file) = &write {
        report::write(file);
    }
    if let Some(folder) = samples.as_deref().filter(|_| here) {
        samples::record_here(folder);
        if arguments.is_empty() {
            return;
        }
    }
    let wanted = |kernel: &&Kernel| arguments.is_empty() || arguments.iter().any(|name| name == kernel.name);
    let wanted = KERNELS.iter().enumerate().filter(|(_, kernel)| wanted(kernel));
    let failed = test_all(wanted, samples.as_deref());
    if !failed.is_empty() {
        say(&format!("kernels: not as expected: {}", failed.join(", ")));
        std::process::exit(1);
    }
    report::assert_limits_say_so();
    say("kernels: all as expected");
}

fn usage() -> ! {
    eprintln!("{USAGE}");
    std::process::exit(2);
}

/// Tests kernels, each in a thread: an emulated machine has one processor, and goes by its own time. Gives the names of those that
/// are not as expected; one that fails does not keep the others from being judged.
fn test_all<'a>(kernels: impl Iterator<Item = (usize, &'a Kernel)>, samples: Option<&Path>) -> Vec<&'a str> {
    thread::scope(|scope| {
        let start = |(column, kernel): (usize, &'a Kernel)| {
            (kernel.name, scope.spawn(move || test(kernel, column, samples)))
        };
        let tests: Vec<_> = kernels.map(start).collect();
        tests.into_iter().filter_map(|(name, test)| test.join().is_err().then_some(name)).collect()
    })
}

fn test(kernel: &Kernel, column: usize, samples: Option<&Path>) {
    let folder = folder(kernel);
    let root = packages::unpacked(kernel, &folder);
    let image = image::build(&root, &folder.join("image"));
    say(&format!("kernels: {}: booting", kernel.name));
    let word = match samples {
        Some(_) => Some(guest::ONLY_SAMPLES),
        None => kernel.sets_clock.then_some(guest::SETS_CLOCK),
    };
    let words = word.map(|word| format!("{word}=1")).unwrap_or_default();
    let results = machine::run(&packages::vmlinuz(&root), &image, &folder, &words);
    verdict::judge(kernel, column, &results, samples.is_some());
    if let Some(samples) = samples {
        samples::store(&verdict::release(&results), &results, samples);
    }
}

/// Where what belongs to a kernel is kept: beside what cargo has built.
fn folder(kernel: &Kernel) -> PathBuf {
    let own = std::env::current_exe().expect("this program has a path");
    let target = own.ancestors().nth(2).expect("this program is in target/PROFILE");
    target.join("kernel-matrix").join(kernel.name)
}
