//! `recorder record`: arguments in, a complete plan out; then the recording, its screen and its exit code.

use std::ffi::OsString;
use std::io;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::selection::{AFTER_HELP, SelectionArgs};
use super::size::{self, GIB, KIB, MIB, Size};
use super::status::Screen;
#[cfg(target_os = "linux")]
use crate::attribution::linux::ebpf::DEFAULT_EVENT_BYTES;
use crate::output::{self, Compression};
use crate::pcapng::Annotate;
use crate::pipeline::{
    self, AttributionMode, Error, Finished, Invoker, Limits, Plan, Rotation, Signals, Why,
};
#[cfg(target_os = "linux")]
use crate::sandbox;
use crate::source::{CaptureOptions, DEFAULT_BUFFER_BYTES, DEFAULT_SNAP_LENGTH, Selection};

/// There are no events to keep.
#[cfg(not(target_os = "linux"))]
const DEFAULT_EVENT_BYTES: u32 = 16 << 20;

/// What `--help` and the manual say behind the options.
const AFTER_OPTIONS: &str = "\
Examples:
  recorder record -i eth0 -w a.pcapng
      all packets on eth0 with their processes, until Ctrl-C
  recorder record -w a.pcapng -- curl -sS http://127.0.0.1:8000/
      what this command and its descendants send and receive
  recorder record -f 'port 53' -a duration:60 --json
      one minute of name resolution, and a final report for programs
  recorder record -w - | wireshark -k -i -
      live in Wireshark

Sizes:
  512KiB or 512K is 512 times 1024 bytes, 10kB is 10000 bytes; also MiB, M, MB, GiB, G, GB

Exit status:
  0  every packet is accounted for and written
  1  a recording exists, but something was lost, or the command failed
  2  nothing usable was done

Signals:
  SIGINT, SIGTERM, SIGHUP  end the recording
  SIGUSR1                  prints the numbers so far";

/// The arguments of `recorder record`.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP, after_long_help = format!("{AFTER_HELP}\n\n{AFTER_OPTIONS}"))]
pub struct RecordArgs {
    /// Record on this interface; repeatable; `any` is all of them, later ones included
    #[arg(short, long = "interface", value_name = "NAME", default_value = "any", help_heading = "Capture")]
    pub interfaces: Vec<String>,
    /// Record only what this libpcap filter lets through; see pcap-filter(7)
    #[arg(short, long, value_name = "EXPR", help_heading = "Capture")]
    pub filter: Option<String>,
    /// Keep at most this much of each packet; a bare number is bytes, 0 the default
    #[arg(short, long = "snaplen", value_name = "SIZE", default_value_t = Size(DEFAULT_SNAP_LENGTH.into()),
          help_heading = "Capture", value_parser = size::parser(1, 0..=u32::MAX.into()))]
    pub snap_length: Size,
    /// The size of the kernel's ring, for each named interface or for all together; a bare number is MiB
    #[arg(short = 'B', long, value_name = "SIZE", default_value_t = Size(DEFAULT_BUFFER_BYTES as u64),
          help_heading = "Capture", value_parser = size::parser(MIB, MIB..=4 * GIB))]
    pub buffer_size: Size,
    /// Also take what is addressed to others
    #[arg(long, help_heading = "Capture")]
    pub promiscuous: bool,

    /// Whose packets to record.
    #[command(flatten)]
    pub selection: SelectionArgs,

    /// How owners are found
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Mode::Auto, help_heading = "Attribution")]
    pub attribution: Mode,
    /// The size of the kernel's ring for socket events, rounded up to a power of two; a bare number is KiB; what does
    /// not fit is counted as lost
    #[arg(long, value_name = "SIZE", default_value_t = Size(DEFAULT_EVENT_BYTES.into()), help_heading = "Attribution",
          value_parser = size::parser(KIB, 4 * KIB..=GIB))]
    pub event_buffer_size: Size,
    /// Store what is told of sockets and processes beside the packets, of all processes and in full, so that `recorder annotate
    /// --from-events` can find the owners again
    #[arg(long = "keep-events", help_heading = "Attribution")]
    pub keep_events: bool,
    /// How owners are written: a list of comment, ids, darwin, custom; or all, or none
    #[arg(long, value_name = "LIST", default_value_t = Annotate::ALL, help_heading = "Attribution")]
    pub annotate: Annotate,
    /// Store the arguments of processes too; these often hold secrets: passwords, tokens, keys
    #[arg(long = "with-cmdline", help_heading = "Attribution")]
    pub with_cmdline: bool,

    /// Write to this file; `-` is standard output, a FIFO is written to as it is; a name that ends in .zst is compressed
    /// [default: recorder-DATE.pcapng]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub write: Option<PathBuf>,
    /// Compress the file: zstd, or zstd:LEVEL with a level from 1 (fast) to 19 (small) [default: zstd:1 for .zst]
    #[arg(long, value_name = "zstd[:LEVEL]", help_heading = "Output")]
    pub compress: Option<Compression>,
    /// Write several files, FILE_00001_YYYYmmddHHMMSS.pcapng and so on. The next one begins after filesize:KB (1000 bytes),
    /// duration:SECONDS, packets:N, or at each full interval:SECONDS of the clock; files:N keeps only the last N; repeatable
    #[arg(short = 'b', long = "ring-buffer", value_name = "LIMIT", help_heading = "Output", value_parser = parse_ring_buffer)]
    pub ring_buffer: Vec<Limit>,
    /// Run this program for each file that is done, the last one too, with its path as the argument; at low priority and
    /// without the recorder's privileges
    #[arg(short = 'z', long = "postrotate-command", value_name = "PROGRAM", help_heading = "Output")]
    pub after_file: Option<OsString>,
    /// Replace the file if it is there
    #[arg(long, help_heading = "Output")]
    pub force: bool,
    /// Store this text in the file; repeatable
    #[arg(long = "capture-comment", value_name = "TEXT", help_heading = "Output")]
    pub comments: Vec<String>,
    /// No live line and no notes: only errors, the line that says it has begun, and the final summary
    #[arg(short, long, help_heading = "Output")]
    pub quiet: bool,
    /// Print the final summary as one JSON object on one line, the last one of standard error (docs/FORMAT.md)
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Stop after this many packets
    #[arg(short = 'c', long, value_name = "N", help_heading = "Stop", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Stop after duration:SECONDS, filesize:KB (1000 bytes), packets:N or, with --ring-buffer, files:N; repeatable.
    /// With --ring-buffer filesize is that of one file, as in dumpcap
    #[arg(short = 'a', long = "autostop", value_name = "LIMIT", help_heading = "Stop", value_parser = parse_autostop)]
    pub autostop: Vec<Limit>,

    /// What the recorder gives up once all is open: capabilities, files and system calls that it does not need
    #[cfg(target_os = "linux")]
    #[arg(long, value_enum, value_name = "HOW", default_value_t = Sandbox::Auto, help_heading = "Safety")]
    pub sandbox: Sandbox,

    /// Record only what this command and all its descendants send and receive, until it ends
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// How owners are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mode {
    /// By eBPF where it works, else as procfs does; and says so
    Auto,
    /// By eBPF; it is an error where that does not work
    Ebpf,
    /// By what sock_diag and /proc show, which misses what is short-lived
    Procfs,
    /// Not at all
    None,
}

/// What the recorder gives up.
#[cfg(target_os = "linux")]
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sandbox {
    /// All that the kernel can take away; what it cannot is told
    Auto,
    /// The same, or nothing is recorded
    Strict,
    /// Nothing
    Off,
}

/// One `--autostop` or `--ring-buffer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Limit {
    /// A time.
    Duration(Duration),
    /// At each multiple of this time since 1970.
    Interval(Duration),
    /// Bytes.
    FileSize(u64),
    /// Packets.
    Packets(u64),
    /// Files.
    Files(NonZeroU32),
}

fn parse_autostop(text: &str) -> Result<Limit, String> {
    let usage = "give duration:SECONDS, filesize:KB, packets:N or files:N";
    match parse_limit(text, usage)? {
        Limit::Interval(_) => Err(usage.to_owned()),
        limit => Ok(limit),
    }
}

fn parse_ring_buffer(text: &str) -> Result<Limit, String> {
    parse_limit(text, "give filesize:KB, duration:SECONDS, interval:SECONDS, packets:N or files:N")
}

fn parse_limit(text: &str, usage: &str) -> Result<Limit, String> {
    let (kind, value) = text.split_once(':').ok_or(usage)?;
    let not_positive = || format!("{value} is no positive whole number");
    let positive = || value.parse().ok().filter(|number: &u64| *number > 0).ok_or_else(not_positive);
    let files = || value.parse::<NonZeroU32>().map_err(|_| not_positive());
    match kind {
        "duration" => match value.parse().map(Duration::try_from_secs_f64) {
            Ok(Ok(duration)) if !duration.is_zero() => Ok(Limit::Duration(duration)),
            _ => Err(format!("{value} is no positive number of seconds")),
        },
        "interval" => Ok(Limit::Interval(Duration::from_secs(u64::from(files()?.get())))),
        "filesize" => Ok(Limit::FileSize(positive()?.saturating_mul(1000))),
        "packets" => Ok(Limit::Packets(positive()?)),
        "files" => Ok(Limit::Files(files()?)),
        _ => Err(usage.to_owned()),
    }
}

impl RecordArgs {
    /// What to capture.
    pub fn capture(&self) -> CaptureOptions {
        let interfaces = if self.interfaces.iter().any(|name| name == "any") {
            Selection::Any
        } else {
            Selection::Named(self.interfaces.clone())
        };
        CaptureOptions {
            interfaces,
            filter: self.filter.clone(),
            // The parsers keep each size within what the field takes.
            snap_length: if self.snap_length.0 == 0 {
                DEFAULT_SNAP_LENGTH
            } else {
                self.snap_length.0 as u32
            },
            buffer_bytes: self.buffer_size.0 as usize,
            promiscuous: self.promiscuous,
        }
    }
}

/// Turns arguments into a plan. Touches nothing but the clock and the environment.
fn plan(args: RecordArgs) -> Plan {
    let mode = match args.attribution {
        Mode::Auto => AttributionMode::Auto,
        Mode::Ebpf => AttributionMode::Ebpf,
        Mode::Procfs => AttributionMode::Procfs,
        Mode::None => AttributionMode::None,
    };
    let default_name = || {
        let name = chrono::Local::now().format("recorder-%Y%m%d-%H%M%S.pcapng").to_string();
        PathBuf::from(if args.compress.is_some() { name + ".zst" } else { name })
    };
    let path = args.write.clone().unwrap_or_else(default_name);
    Plan {
        capture: args.capture(),
        attribution: mode,
        processes: args.selection.expr(),
        // The parsers keep each size within what the field takes.
        event_buffer_bytes: args.event_buffer_size.0 as u32,
        keep_events: args.keep_events,
        annotate: args.annotate,
        with_arguments: args.with_cmdline,
        limits: limits(&args),
        rotation: rotation(&args),
        compression: args.compress.or_else(|| compression_by_name(&path)),
        after_file: args.after_file,
        path,
        force: args.force,
        invoker: Invoker::from_sudo(),
        comments: args.comments,
        command: args.command,
        #[cfg(target_os = "linux")]
        sandbox: match args.sandbox {
            Sandbox::Auto => sandbox::Mode::Auto,
            Sandbox::Strict => sandbox::Mode::Strict,
            Sandbox::Off => sandbox::Mode::Off,
        },
    }
}

/// How a file of this name is compressed if nothing else is said.
pub(super) fn compression_by_name(path: &Path) -> Option<Compression> {
    path.extension().is_some_and(|extension| extension == "zst").then(Compression::default)
}

/// The strictest of each kind.
fn limits(args: &RecordArgs) -> Limits {
    let mut limits = Limits { packets: args.count, ..Limits::default() };
    for limit in &args.autostop {
        match *limit {
            Limit::Duration(value) => lower(&mut limits.duration, value),
            Limit::FileSize(value) => lower(&mut limits.file_bytes, value),
            Limit::Packets(value) => lower(&mut limits.packets, value),
            Limit::Files(value) => lower(&mut limits.files, u64::from(value.get())),
            Limit::Interval(_) => {}
        }
    }
    for limit in &args.ring_buffer {
        if let Limit::FileSize(value) = *limit {
            lower(&mut limits.file_bytes, value);
        }
    }
    limits
}

/// The strictest of each kind; none without `--ring-buffer`. To be told after how many files to stop means several, too.
fn rotation(args: &RecordArgs) -> Option<Rotation> {
    let has_files = args.autostop.iter().any(|limit| matches!(limit, Limit::Files(_)));
    if args.ring_buffer.is_empty() && !has_files {
        return None;
    }
    let mut rotation = Rotation::default();
    for limit in &args.ring_buffer {
        match *limit {
            Limit::Duration(value) => lower(&mut rotation.duration, value),
            Limit::Interval(value) => lower(&mut rotation.interval, value),
            Limit::Packets(value) => lower(&mut rotation.packets, value),
            Limit::Files(value) => lower(&mut rotation.keep, value),
            Limit::FileSize(_) => {}
        }
    }
    Some(rotation)
}

fn lower<T: Ord + Copy>(limit: &mut Option<T>, value: T) {
    *limit = Some(limit.map_or(value, |old| old.min(value)));
}

/// What contradicts itself: the error, and its remedy.
fn contradiction(plan: &Plan) -> Option<(&'static str, &'static str)> {
    if plan.keep_events && plan.attribution == AttributionMode::None {
        return Some((
            "there are no events to keep: --attribution none does not look for owners",
            "leave --attribution or --keep-events out",
        ));
    }
    if plan.keep_events && plan.rotation.is_some() {
        return Some((
            "cannot keep events in several files: each tells what came before it only together with the others",
            "leave --ring-buffer and --autostop files out, or --keep-events",
        ));
    }
    if plan.processes.is_some() && plan.attribution == AttributionMode::None {
        return Some((
            "processes are chosen by the owners of packets, which --attribution none does not look for",
            "leave --attribution out; or record everything, and choose later with `recorder filter`",
        ));
    }
    let is_stdout = output::is_stdout(&plan.path);
    if is_stdout && plan.rotation.is_some() {
        return Some((
            "cannot write several files to standard output",
            "name a file with -w, or leave --ring-buffer and --autostop files out",
        ));
    }
    if is_stdout && plan.after_file.is_some() {
        return Some((
            "there is no file to run a command for: the recording goes to standard output",
            "name one with -w",
        ));
    }
    let endless = plan.rotation.as_ref().is_some_and(|rotation| {
        let Rotation { packets, duration, interval, keep: _ } = rotation;
        plan.limits.file_bytes.is_none() && packets.is_none() && duration.is_none() && interval.is_none()
    });
    endless.then_some((
        "several files are wanted, and nothing says when the next one begins",
        "add --ring-buffer filesize:KB, duration:SECONDS, interval:SECONDS or packets:N",
    ))
}

/// Records. Exit code 0: every packet accounted for and written; 1: a recording exists, but something was lost or the
/// command failed; 2: nothing usable was done.
pub fn run(args: RecordArgs) -> ExitCode {
    let screen = Screen::new(args.quiet, args.json);
    run_with(args, screen)
}

/// The same for Wireshark: says nothing unless something is wrong, or was lost.
pub(super) fn run_silently(args: RecordArgs) -> ExitCode {
    run_with(args, Screen::silent())
}

fn run_with(args: RecordArgs, mut screen: Screen) -> ExitCode {
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
    if let Some((message, remedy)) = contradiction(&plan) {
        screen.error(message, Some(remedy));
        return ExitCode::from(2);
    }
    let result = Signals::install()
        .map_err(|source| Error::System { what: "install signal handlers", source })
        .and_then(|signals| pipeline::record(&plan, &signals, &mut screen));
    match result {
        Ok(finished) => {
            let exit_code = exit_code(&finished);
            screen.finished(&finished, exit_code);
            ExitCode::from(exit_code)
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
    if failed && finished.is_gone {
        return 2;
    }
    let command_failed = finished.command.is_some_and(|status| !status.success());
    let lost = finished.statistics.dropped_by_kernel > 0
        || finished.statistics.events_lost > 0
        || finished.statistics.interfaces.iter().any(|counts| counts.dropped_by_us > 0);
    u8::from(failed || command_failed || lost || finished.problems > 0 || finished.why == Why::InterfacesGone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments(line: &str) -> RecordArgs {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: RecordArgs,
        }
        <Line as clap::Parser>::parse_from(std::iter::once("record").chain(line.split_whitespace())).args
    }

    #[test]
    fn limits_are_read_as_dumpcap_reads_them() {
        for parse in [parse_autostop, parse_ring_buffer] {
            assert_eq!(parse("duration:1.5"), Ok(Limit::Duration(Duration::from_millis(1500))));
            assert_eq!(parse("filesize:10"), Ok(Limit::FileSize(10_000)));
            assert_eq!(parse("packets:3"), Ok(Limit::Packets(3)));
            assert_eq!(parse("files:2"), Ok(Limit::Files(NonZeroU32::new(2).unwrap())));
        }
        assert_eq!(parse_ring_buffer("interval:60"), Ok(Limit::Interval(Duration::from_secs(60))));
    }

    #[test]
    fn a_limit_that_makes_no_sense_is_refused() {
        for text in [
            "",
            "packets",
            "packets:0",
            "packets:-1",
            "duration:nan",
            "duration:0",
            "hours:1",
            "filesize:x",
            "interval:0",
            "interval:1.5",
            "files:0",
        ] {
            assert!(parse_autostop(text).is_err(), "{text}");
            assert!(parse_ring_buffer(text).is_err(), "{text}");
        }
        assert!(parse_autostop("interval:60").is_err(), "an interval ends a file, and not a recording");
    }

    #[test]
    fn the_size_of_a_file_stops_the_recording_or_begins_the_next_file() {
        let alone = plan(arguments("-a filesize:10"));
        assert_eq!((alone.rotation, alone.limits.file_bytes), (None, Some(10_000)));
        for line in [
            "-a filesize:10 -b files:2",
            "-b filesize:10 -b files:2",
            "-b filesize:10 -b filesize:20 -b files:2",
        ] {
            let several = plan(arguments(line));
            let keep = several.rotation.and_then(|rotation| rotation.keep).map(NonZeroU32::get);
            assert_eq!((keep, several.limits.file_bytes), (Some(2), Some(10_000)), "{line}");
            assert_eq!(contradiction(&several), None);
        }
    }

    #[test]
    fn several_files_need_names_and_something_that_ends_each() {
        for line in ["-b files:2", "-a files:2", "-b packets:1 -w -", "-z gzip -w -"] {
            assert!(contradiction(&plan(arguments(line))).is_some(), "{line}");
        }
        for line in ["-b interval:1", "-a files:2 -a filesize:1", "-z gzip"] {
            assert!(contradiction(&plan(arguments(line))).is_none(), "{line}");
        }
    }

    #[test]
    fn events_are_kept_in_one_file_and_of_a_recording_that_has_some() {
        for line in [
            "--keep-events -b packets:1",
            "--keep-events -a files:2 -a filesize:1",
            "--keep-events --attribution none",
        ] {
            assert!(contradiction(&plan(arguments(line))).is_some(), "{line}");
        }
        for line in [
            "--keep-events",
            "--keep-events --attribution procfs",
            "--keep-events --compress zstd -a filesize:1",
        ] {
            assert!(contradiction(&plan(arguments(line))).is_none(), "{line}");
        }
    }

    #[test]
    fn a_name_that_ends_in_zst_is_compressed_and_the_level_is_as_asked_for() {
        let compression = |line| plan(arguments(line)).compression;
        assert_eq!(compression("-w a.pcapng"), None);
        assert_eq!(compression("-w a.pcapng.zst"), Some(Compression::default()));
        assert_eq!(compression("-w a.pcapng.zst --compress zstd:9"), "zstd:9".parse().ok());
        assert_eq!(compression("-w - --compress zstd"), Some(Compression::default()));
        let path = plan(arguments("--compress zstd")).path;
        assert!(path.to_str().unwrap().ends_with(".pcapng.zst"), "{}", path.display());
    }
}
