//! What ends a recording: signals, limits, the command's end.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGXFSZ};

/// Why a recording ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// By this signal.
    Signal(i32),
    /// The command ended.
    CommandEnded,
    /// A limit was reached.
    Limit,
    /// All interfaces are gone.
    InterfacesGone,
    /// Nobody reads the pipe any more.
    ReaderGone,
    /// The file can take no more.
    Failure,
}

/// The signals that concern a recording. Handlers only set flags; the loop looks at them.
#[derive(Debug)]
pub struct Signals {
    stop: Arc<AtomicUsize>,
    report: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers: SIGINT, SIGTERM and SIGHUP end the recording, SIGUSR1 asks for the numbers.
    pub fn install() -> io::Result<Self> {
        let signals = Self { stop: Arc::default(), report: Arc::default() };
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register_usize(signal, Arc::clone(&signals.stop), signal as usize)?;
        }
        signal_hook::flag::register(SIGUSR1, Arc::clone(&signals.report))?;
        // The size of files is limited (`ulimit -f`): without a handler that kills; with one, the write says so.
        signal_hook::flag::register(SIGXFSZ, Arc::default())?;
        Ok(signals)
    }

    /// The signal that asks for the end, if one came.
    pub fn stop(&self) -> Option<i32> {
        match self.stop.load(Ordering::Relaxed) {
            0 => None,
            signal => i32::try_from(signal).ok(),
        }
    }

    /// The same, once for each signal.
    pub(super) fn take_stop(&self) -> Option<i32> {
        i32::try_from(self.stop.swap(0, Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }

    /// Whether the numbers were asked for since the last call.
    pub(super) fn take_report(&self) -> bool {
        self.report.swap(false, Ordering::Relaxed)
    }
}
