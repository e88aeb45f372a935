//! `recorder record`: arguments in, a complete plan out; then the recording, its screen and its exit code.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::status::Screen;
use crate::attribution::linux::ebpf::DEFAULT_EVENT_BYTES;
use crate::pcapng::Annotate;
use crate::pipeline::{self, AttributionMode, Error, Finished, Invoker, Limits, Plan, Signals, Why};
use crate::source::{CaptureOptions, DEFAULT_SNAP_LENGTH, Selection};

/// The arguments of `recorder record`.
#[derive(Debug, Args)]
pub struct RecordArgs {
    /// Record on this interface; repeatable; `any` is all of them, later ones included
    #[arg(short, long = "interface", value_name = "NAME", default_value = "any", help_heading = "Capture")]
    pub interfaces: Vec<String>,
    /// Record only what this libpcap filter lets through; see pcap-filter(7)
    #[arg(short, long, value_name = "EXPR", help_heading = "Capture")]
    pub filter: Option<String>,
    /// Keep at most this many bytes of each packet; 0 for the default
    #[arg(short, long = "snaplen", value_name = "BYTES", default_value_t = DEFAULT_SNAP_LENGTH, help_heading = "Capture")]
    pub snap_length: u32,
    /// The size of the kernel's ring, for each named interface or for all together
    #[arg(short = 'B', long = "buffer-size", value_name = "MIB", default_value_t = 64, help_heading = "Capture",
          value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub buffer_mib: u32,
    /// Also take what is addressed to others
    #[arg(long, help_heading = "Capture")]
    pub promiscuous: bool,

    /// How owners are found: ebpf fails where eBPF does not work; procfs looks them up in /proc, which misses what is
    /// short-lived; auto is ebpf where it works, else procfs, and says so
    #[arg(long, value_enum, default_value_t = Mode::Auto, help_heading = "Attribution")]
    pub attribution: Mode,
    /// The size of the kernel's ring for socket events, rounded up to a power of two; what does not fit is counted as lost
    #[arg(long, value_name = "KIB", default_value_t = DEFAULT_EVENT_BYTES >> 10, help_heading = "Attribution",
          value_parser = clap::value_parser!(u32).range(4..=1 << 20))]
    pub event_buffer_size: u32,
    /// How owners are written: a list of comment, ids, darwin, custom; or all, or none
    #[arg(long, value_name = "LIST", default_value_t = Annotate::ALL, help_heading = "Attribution")]
    pub annotate: Annotate,
    /// Store the arguments of processes too; these often hold secrets: passwords, tokens, keys
    #[arg(long = "with-cmdline", help_heading = "Attribution")]
    pub with_cmdline: bool,

    /// Write to this file; `-` is standard output [default: recorder-DATE.pcapng]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub write: Option<PathBuf>,
    /// Replace the file if it is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Store this text in the file; repeatable
    #[arg(long = "capture-comment", value_name = "TEXT", help_heading = "Output")]
    pub comments: Vec<String>,
    /// No live line and no notes: only errors, the line that says it has begun, and the final summary
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,

    /// Stop after this many packets
    #[arg(short = 'c', long, value_name = "N", help_heading = "Stop", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after duration:SECONDS, filesize:KB (1000 bytes) or packets:N; repeatable
    #[arg(short = 'a', long = "autostop", value_name = "LIMIT", help_heading = "Stop", value_parser = parse_limit)]
    pub autostop: Vec<Limit>,

    /// Record only what this command and all its descendants send and receive, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How owners are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// eBPF where it works.
    Auto,
    /// eBPF or nothing.
    Ebpf,
    /// What sock_diag and /proc show.
    Procfs,
    /// Not at all.
    None,
}

/// One `--autostop`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// Seconds.
    Duration(Duration),
    /// Bytes.
    FileSize(u64),
    /// Packets.
    Packets(u64),
}

fn parse_limit(text: &str) -> Result<Limit, String> {
    let usage = "give duration:SECONDS, filesize:KB or packets:N";
    let (kind, value) = text.split_once(':').ok_or(usage)?;
    let positive = || {
        value
            .parse()
            .ok()
            .filter(|number: &u64| *number > 0)
            .ok_or_else(|| format!("{value} is no positive number"))
    };
    match kind {
        "duration" => match value.parse().map(Duration::try_from_secs_f64) {
            Ok(Ok(duration)) if !duration.is_zero() => Ok(Limit::Duration(duration)),
            _ => Err(format!("{value} is no positive number of seconds")),
        },
        "filesize" => Ok(Limit::FileSize(positive()?.saturating_mul(1000))),
        "packets" => Ok(Limit::Packets(positive()?)),
        _ => Err(usage.to_owned()),
    }
}

/// Turns arguments into a plan. Touches nothing but the clock and the environment.
fn plan(args: RecordArgs) -> Plan {
    let RecordArgs {
        interfaces, filter, snap_length, buffer_mib, promiscuous, attribution, annotate, ..
    } = &args;
    let interfaces = if interfaces.iter().any(|name| name == "any") {
        Selection::Any
    } else {
        Selection::Named(interfaces.clone())
    };
    let capture = CaptureOptions {
        interfaces,
        filter: filter.clone(),
        snap_length: if *snap_length == 0 { DEFAULT_SNAP_LENGTH } else { *snap_length },
        buffer_bytes: *buffer_mib as usize * (1 << 20),
        promiscuous: *promiscuous,
    };
    let mode = match attribution {
        Mode::Auto => AttributionMode::Auto,
        Mode::Ebpf => AttributionMode::Ebpf,
        Mode::Procfs => AttributionMode::Procfs,
        Mode::None => AttributionMode::None,
    };
    let default_name = || chrono::Local::now().format("recorder-%Y%m%d-%H%M%S.pcapng").to_string().into();
    Plan {
        capture,
        attribution: mode,
        event_buffer_bytes: args.event_buffer_size << 10,
        annotate: *annotate,
        with_arguments: args.with_cmdline,
        limits: limits(&args),
        path: args.write.unwrap_or_else(default_name),
        force: args.force,
        invoker: Invoker::from_sudo(),
        comments: args.comments,
        command: args.command,
    }
}

/// The strictest of each kind.
fn limits(args: &RecordArgs) -> Limits {
    let mut limits = Limits { packets: args.count, ..Limits::default() };
    for limit in &args.autostop {
        match *limit {
            Limit::Duration(value) => {
                limits.duration = Some(limits.duration.map_or(value, |old| old.min(value)))
            }
            Limit::FileSize(value) => limits.bytes = Some(limits.bytes.map_or(value, |old| old.min(value))),
            Limit::Packets(value) => {
                limits.packets = Some(limits.packets.map_or(value, |old| old.min(value)))
            }
        }
    }
    limits
}

/// Records. Exit code 0: every packet accounted for and written; 1: a recording exists, but something was lost or the
/// command failed; 2: nothing usable was done.
pub fn run(args: RecordArgs) -> ExitCode {
    let mut screen = Screen::new(args.quiet);
    let without_descendants = match args.attribution {
        Mode::None => Some("none"),
        Mode::Procfs => Some("procfs"),
        Mode::Auto | Mode::Ebpf => None,
    };
    if let (Some(mode), false) = (without_descendants, args.command.is_empty()) {
        screen.error(
            &format!("a command is recorded with all its descendants, which --attribution {mode} does not know"),
            Some("leave --attribution out, which needs eBPF; or record everybody, and run the command by itself"),
        );
        return ExitCode::from(2);
    }
    let plan = plan(args);
    let result = Signals::install()
        .map_err(|source| Error::System { what: "install signal handlers", source })
        .and_then(|signals| pipeline::record(&plan, &signals, &mut screen));
    match result {
        Ok(finished) => {
            screen.finished(&finished);
            ExitCode::from(exit_code(&finished))
        }
        Err(error) => {
            screen.error(&error.to_string(), error.remedy().as_deref());
            ExitCode::from(2)
        }
    }
}

fn exit_code(finished: &Finished) -> u8 {
    let reader_left = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    let failed = finished.failure.as_ref().is_some_and(|error| !reader_left(error));
    let command_failed = finished.command.is_some_and(|status| !status.success());
    let lost = finished.statistics.dropped_by_kernel > 0
        || finished.statistics.events_lost > 0
        || finished.statistics.interfaces.iter().any(|counts| counts.dropped_by_us > 0);
    u8::from(failed || command_failed || lost || finished.why == Why::InterfacesGone)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_dumpcap_reads_them() {
        assert_eq!(parse_limit("duration:1.5"), Ok(Limit::Duration(Duration::from_millis(1500))));
        assert_eq!(parse_limit("filesize:10"), Ok(Limit::FileSize(10_000)));
        assert_eq!(parse_limit("packets:3"), Ok(Limit::Packets(3)));
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_refused() {
        for text in
            ["", "packets", "packets:0", "packets:-1", "duration:nan", "duration:0", "hours:1", "filesize:x"]
        {
            assert!(parse_limit(text).is_err(), "{text}");
        }
    }
}
