//! Wireshark's way to capture by other programs, extcap(4): it asks what can be recorded and how, and has it recorded.
//!
//! Wireshark runs each program in its extcap folders, reads sentences from standard output, and shows what a capture writes to
//! standard error as an error. What the user chose in its dialog comes back as options of `recorder record`, because
//! that is what the dialog is made of: a recording for Wireshark is a recording like any other, into a pipe.

mod folder;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;
use std::{iter, thread};

use clap::{Arg, ArgAction, ArgGroup, Args, Parser};

use super::record::{self, RecordArgs};
use super::{ignore_broken_pipe, text};
use crate::model::LinkType;
use crate::source::{self, InterfaceDetails};

pub use folder::{Error as FolderError, FolderArgs, run as run_folder};

/// How the names of our interfaces begin: Wireshark has an `eth0` of its own.
const PREFIX: &str = "recorder-";

/// The options of `record` in Wireshark's dialog, with their labels and the tab they are on.
const DIALOG: [(&str, &str, &str); 6] = [
    ("process", "Only packets of", "Processes"),
    ("attribution", "Find processes by", "Processes"),
    ("with-cmdline", "Store command lines", "Processes"),
    ("snaplen", "Bytes kept of each packet", "Capture"),
    ("buffer-size", "Kernel buffer", "Capture"),
    ("promiscuous", "Promiscuous mode", "Capture"),
];

/// A call by Wireshark. It asks one thing at a time, or for a capture.
#[derive(Debug, Parser)]
#[command(name = "recorder", group = ArgGroup::new("asked").required(true).multiple(true))]
pub struct Call {
    /// List the interfaces
    #[arg(long, group = "asked")]
    extcap_interfaces: bool,
    /// The version of the Wireshark that asks; alone, ask for ours
    #[arg(long, group = "asked", value_name = "VERSION", num_args = 0..=1)]
    extcap_version: Option<Option<String>>,
    /// List the options of an interface
    #[arg(long, group = "asked", requires = "extcap_interface")]
    extcap_config: bool,
    /// List the link types of an interface
    #[arg(long, group = "asked", requires = "extcap_interface")]
    extcap_dlts: bool,
    /// Capture only this; without --capture, say what is wrong with it
    #[arg(long, group = "asked", requires = "extcap_interface", value_name = "EXPR")]
    extcap_capture_filter: Option<String>,
    /// Capture
    #[arg(long, group = "asked", requires = "extcap_interface", requires = "fifo")]
    capture: bool,
    /// Write what is captured to this pipe
    #[arg(long, value_name = "PATH")]
    fifo: Option<PathBuf>,
    /// The interface that is asked about
    #[arg(long, value_name = "NAME", value_parser = parse_interface)]
    extcap_interface: Option<String>,
    #[command(flatten)]
    record: RecordArgs,
}

/// The name without what it begins with in Wireshark.
fn parse_interface(name: &str) -> Result<String, String> {
    let own = name.strip_prefix(PREFIX).ok_or_else(|| format!("the interfaces here are called {PREFIX}NAME"));
    own.map(str::to_owned)
}

/// Whether a command line, the program's name included, is a call by Wireshark.
pub fn is_call(command_line: &[OsString]) -> bool {
    command_line
        .get(1)
        .is_some_and(|first| first == "--capture" || first.as_encoded_bytes().starts_with(b"--extcap-"))
}

/// Does what Wireshark asks for. Exit code 2 if it cannot; a capture has those of `recorder record`.
pub fn run(command_line: &[OsString]) -> ExitCode {
    let code = Call::try_parse_from(command_line).map_or_else(
        |error| {
            // Nobody can be told that standard error is closed.
            let _ = error.print();
            ExitCode::from(2)
        },
        obey,
    );
    if code == ExitCode::from(2) {
        let_go(command_line);
    }
    code
}

/// Closes the pipe of a capture that did not begin. dumpcap waits for somebody to open it, and Wireshark shows the error when
/// dumpcap has ended.
fn let_go(command_line: &[OsString]) {
    /// Within this time dumpcap has opened its end, or it does not run.
    const PATIENCE: Duration = Duration::from_secs(5);
    let mut after = command_line.iter().skip_while(|argument| *argument != "--fifo");
    let Some(fifo) = after.nth(1).filter(|path| Path::new(path).exists()).cloned() else { return };
    let (opened, waits) = mpsc::channel();
    // Opening waits for the other end, and cannot be told to stop.
    thread::spawn(move || opened.send(File::options().write(true).open(fifo)));
    let _ = waits.recv_timeout(PATIENCE);
}

fn obey(mut call: Call) -> ExitCode {
    let interface = call.extcap_interface.take().unwrap_or_default();
    call.record.interfaces = vec![interface.clone()];
    call.record.filter = call.extcap_capture_filter.take();
    if call.capture {
        call.record.write = call.fifo;
        return record::run_silently(call.record);
    }
    let tell = |interfaces: Vec<InterfaceDetails>| {
        let told = answer(&call, &interface, &interfaces, &mut io::stdout().lock());
        ignore_broken_pipe(told).map_err(|error| error.to_string())
    };
    match source::interfaces().map_err(|error| error.to_string()).and_then(tell) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody can be told that standard error is closed.
            let _ = writeln!(io::stderr(), "recorder: {}", text::message(&error));
            ExitCode::from(2)
        }
    }
}

fn answer(
    call: &Call,
    interface: &str,
    interfaces: &[InterfaceDetails],
    out: &mut dyn Write,
) -> io::Result<()> {
    if call.extcap_config {
        return write_dialog(out);
    }
    if call.extcap_dlts {
        let link_type = interfaces.iter().find(|known| known.name == interface).map(|known| known.link_type);
        return write_link_type(link_type, out);
    }
    if call.record.filter.is_some() {
        return write_fault(source::check(&call.record.capture()), out);
    }
    write_version(out)?;
    if call.extcap_interfaces { write_interfaces(interfaces, out) } else { Ok(()) }
}

fn write_version(out: &mut dyn Write) -> io::Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    sentence(out, "extcap", &[("version", version), ("display", "recorder: packets with their processes")])
}

/// `any`, and all that are up: the others cannot be recorded.
fn write_interfaces(interfaces: &[InterfaceDetails], out: &mut dyn Write) -> io::Result<()> {
    // The kernel lets an interface have braces in its name, and a sentence has no way to spell them.
    let can_be_told = |name: &str| !name.contains(['{', '}']);
    let up = interfaces.iter().filter(|interface| interface.is_up).map(|interface| interface.name.as_str());
    for name in iter::once("any").chain(up.filter(|name| can_be_told(name))) {
        let (value, display) = (format!("{PREFIX}{name}"), format!("{name} with processes"));
        sentence(out, "interface", &[("value", &value), ("display", &display)])?;
    }
    Ok(())
}

/// How the packets of an interface begin; those of `any` have no link type in common.
fn write_link_type(link_type: Option<LinkType>, out: &mut dyn Write) -> io::Result<()> {
    // Numbers are libpcap's (DLT_), which differ from the file's (LINKTYPE_) for bare IP.
    let (number, name, display) = match link_type {
        Some(LinkType::RAW_IP) => ("12", "RAW", "Raw IP"),
        Some(LinkType::LINUX_SLL2) => ("276", "LINUX_SLL2", "Linux cooked-mode capture v2"),
        Some(_) => ("1", "EN10MB", "Ethernet"),
        None => ("1", "any", "What each interface has"),
    };
    sentence(out, "dlt", &[("number", number), ("name", name), ("display", display)])
}

/// Wireshark takes a filter for right if nothing is said, and shows the first line otherwise.
fn write_fault(checked: Result<(), source::Error>, out: &mut dyn Write) -> io::Result<()> {
    match checked {
        Ok(()) => Ok(()),
        Err(source::Error::Filter { message, .. }) => writeln!(out, "{message}"),
        Err(other) => writeln!(out, "{other}"),
    }
}

/// The dialog: what `record` says of its options.
fn write_dialog(out: &mut dyn Write) -> io::Result<()> {
    let record = RecordArgs::augment_args(clap::Command::new("record"));
    for (number, (name, label, tab)) in DIALOG.into_iter().enumerate() {
        if let Some(option) = record.get_arguments().find(|option| option.get_long() == Some(name)) {
            write_option(&number.to_string(), option, label, tab, out)?;
        }
    }
    Ok(())
}

fn write_option(number: &str, option: &Arg, label: &str, tab: &str, out: &mut dyn Write) -> io::Result<()> {
    let call = format!("--{}", option.get_long().unwrap_or_default());
    let tooltip = option.get_help().map(ToString::to_string).unwrap_or_default();
    let default = option.get_default_values().first().and_then(|value| value.to_str());
    let values = option.get_possible_values();
    let (kind, default) = match option.get_action() {
        ArgAction::SetTrue => ("boolflag", Some("false")),
        _ if !values.is_empty() => ("selector", default),
        _ => ("string", default),
    };
    let mut fields = vec![("number", number), ("call", &call), ("display", label), ("type", kind)];
    fields.extend(default.map(|default| ("default", default)));
    fields.extend([("tooltip", tooltip.as_str()), ("group", tab)]);
    sentence(out, "arg", &fields)?;
    for value in values.iter().filter(|_| kind == "selector") {
        let name = value.get_name();
        let display = value.get_help().map_or_else(|| name.to_owned(), |help| format!("{name}: {help}"));
        let is_default = if default == Some(name) { "true" } else { "false" };
        let fields =
            [("arg", number), ("value", name), ("display", display.as_str()), ("default", is_default)];
        sentence(out, "value", &fields)?;
    }
    Ok(())
}

/// `kind {key=value}{key=value}`. No value may hold a brace.
fn sentence(out: &mut dyn Write, kind: &str, fields: &[(&str, &str)]) -> io::Result<()> {
    let fields: String = fields.iter().map(|(key, value)| format!("{{{key}={value}}}")).collect();
    writeln!(out, "{kind} {fields}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(arguments: &[&str]) -> Result<Call, clap::Error> {
        Call::try_parse_from(iter::once("recorder").chain(arguments.iter().copied()))
    }

    fn written(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn interface(name: &str, is_up: bool) -> InterfaceDetails {
        InterfaceDetails {
            name: name.into(),
            index: 1,
            link_type: LinkType::ETHERNET,
            is_up,
            is_loopback: false,
            addresses: vec![],
            mac: None,
            description: None,
            mtu: 1500,
        }
    }

    #[test]
    fn wireshark_is_known_by_the_first_argument() {
        let is_call = |line: &[&str]| is_call(&line.iter().map(OsString::from).collect::<Vec<_>>());
        for line in [
            &["recorder", "--extcap-interfaces", "--extcap-version=4.6"][..],
            &["recorder", "--capture", "--extcap-interface", "recorder-any", "--fifo", "/tmp/x"],
            &["recorder", "--extcap-capture-filter", "tcp", "--extcap-interface", "recorder-any"],
        ] {
            assert!(is_call(line), "{line:?}");
        }
        for line in [&["recorder"][..], &["recorder", "record", "--", "x", "--extcap-interfaces"], &[]] {
            assert!(!is_call(line), "{line:?}");
        }
    }

    #[test]
    fn what_is_up_is_offered_and_any_first() {
        let interfaces = [
            interface("lo", true),
            interface("eth0", false),
            interface("a}{b", true),
            interface("wg0.1", true),
        ];
        let expected = "\
interface {value=recorder-any}{display=any with processes}
interface {value=recorder-lo}{display=lo with processes}
interface {value=recorder-wg0.1}{display=wg0.1 with processes}
";
        assert_eq!(written(|out| write_interfaces(&interfaces, out)), expected);
    }

    #[test]
    fn the_dialog_shows_each_of_its_options_as_record_has_it() {
        let text = written(write_dialog);
        let options: Vec<&str> = text.lines().filter(|line| line.starts_with("arg ")).collect();
        assert_eq!(options.len(), DIALOG.len(), "{text}");
        for ((name, ..), line) in DIALOG.iter().zip(&options) {
            assert!(line.contains(&format!("{{call=--{name}}}")), "{line}");
        }
        assert!(
            text.contains("{call=--attribution}{display=Find processes by}{type=selector}{default=auto}")
        );
        assert!(text.contains("value {arg=1}{value=procfs}{display=procfs: "), "{text}");
        assert!(
            text.contains("{call=--with-cmdline}{display=Store command lines}{type=boolflag}{default=false}")
        );
        assert!(text.contains("{type=string}{default=256KiB}"), "{text}");
    }

    #[test]
    fn no_sentence_breaks_at_a_brace_in_a_value() {
        for line in written(write_dialog).lines() {
            let fields = line.split_once(' ').unwrap().1;
            let fields = fields.strip_prefix('{').unwrap().strip_suffix('}').unwrap();
            assert!(fields.split("}{").all(|field| !field.contains(['{', '}'])), "{line}");
        }
    }

    #[test]
    fn what_the_dialog_sends_back_is_what_record_does() {
        let call = call(&[
            "--capture",
            "--extcap-interface",
            "recorder-eth0",
            "--extcap-capture-filter",
            "tcp port 80",
            "--fifo",
            "/tmp/fifo",
            "--snaplen",
            "96",
            "--with-cmdline",
        ])
        .unwrap();
        assert_eq!(call.extcap_interface.as_deref(), Some("eth0"));
        assert_eq!(call.extcap_capture_filter.as_deref(), Some("tcp port 80"));
        assert_eq!((call.record.snap_length.0, call.record.with_cmdline), (96, true));
    }

    #[test]
    fn half_a_question_is_refused() {
        for arguments in [
            &["--extcap-config"][..],
            &["--extcap-dlts"],
            &["--extcap-interface", "recorder-any"],
            &["--extcap-config", "--extcap-interface", "eth0"],
            &["--capture", "--extcap-interface", "recorder-any"],
            &["--capture", "--fifo", "/tmp/fifo"],
        ] {
            assert!(call(arguments).is_err(), "{arguments:?}");
        }
        assert!(call(&["--extcap-version"]).is_ok());
    }

    #[test]
    fn bare_ip_has_the_number_that_libpcap_gives_it() {
        let raw = "dlt {number=12}{name=RAW}{display=Raw IP}\n";
        assert_eq!(written(|out| write_link_type(Some(LinkType::RAW_IP), out)), raw);
        assert!(written(|out| write_link_type(None, out)).contains("{name=any}"));
    }
}
