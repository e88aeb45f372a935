//! The emulated machine.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use recorder_tests::process::must;

use crate::packages::remake;

/// After this long, something hangs. It takes some minutes, where nobody else computes.
const DEADLINE: Duration = Duration::from_secs(60 * 60);
/// How often it is woken, should it sleep.
const WAKE_EVERY: Duration = Duration::from_secs(3);
/// What a kernel says that is not well.
const ALARMS: [&str; 7] =
    ["Kernel panic", "Oops", "BUG:", "WARNING:", "Call Trace", "general protection fault", "stall"];

/// Boots a kernel with an image and further words on its command line, waits until the machine is off, and gives the folder of what it handed out.
pub(crate) fn run(kernel: &Path, image: &Path, folder: &Path, words: &str) -> PathBuf {
    let (console, packed) = (folder.join("console.txt"), folder.join("results.tar.gz"));
    let mut command = Command::new("qemu-system-x86_64");
    // No KVM: emulation runs everywhere. Time in the guest goes by the instructions that it executes, so that a busy machine
    // out here makes no events late in there. One processor, for 5.10 does not bring up another one so; and with several
    // threads QEMU 7.2 leaves rubbish in the flags after cmpxchg16b, of which guests of Linux 6.12 die now and then.
    command.args(["-accel", "tcg,thread=single", "-icount", "shift=0,sleep=off", "-cpu", "max"]);
    command.args(["-smp", "1", "-m", "1024"]);
    command.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]);
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 oops=panic {words}")]);
    // Where it is woken. Its own alarm may come before it sleeps, for that goes by the time out here.
    command.args(["-monitor", "stdio"]);
    for line in [&console, &packed] {
        command.arg("-serial").arg(format!("file:{}", line.display()));
    }
    let said = wait_for(&mut Emulator::start(&mut command), &console);
    let alarm = said.lines().find(|line| ALARMS.iter().any(|alarm| line.contains(alarm)));
    assert!(alarm.is_none(), "the kernel is not well: {alarm:?}\n--- console\n{said}");

    let results = folder.join("results");
    remake(&results);
    must(Command::new("tar").arg("-xzf").arg(&packed).arg("-C").arg(&results));
    results
}

/// QEMU. Dropped, it is killed.
struct Emulator(Child);

impl Emulator {
    fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        Self(command.spawn().unwrap_or_else(|error| panic!("cannot start {command:?}: {error}")))
    }

    /// If it sleeps.
    fn wake(&mut self) {
        if let Some(monitor) = &mut self.0.stdin {
            // It may have ended by itself.
            let _ = monitor.write_all(b"system_wakeup\n");
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Waits until the machine is off; gives what was said on its console.
fn wait_for(emulator: &mut Emulator, console: &Path) -> String {
    let said = || String::from_utf8_lossy(&fs::read(console).unwrap_or_default()).into_owned();
    let end = Instant::now() + DEADLINE;
    let mut woken = Instant::now();
    loop {
        if let Some(status) = emulator.0.try_wait().expect("cannot wait for QEMU") {
            assert!(status.success(), "QEMU failed: {status}\n--- console\n{}", said());
            return said();
        }
        assert!(Instant::now() < end, "the machine did not end\n--- console\n{}", said());
        if woken.elapsed() >= WAKE_EVERY {
            emulator.wake();
            woken = Instant::now();
        }
        thread::sleep(Duration::from_millis(100));
    }
}
