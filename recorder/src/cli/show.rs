//! `recorder show FILE`: one line per packet, with its processes.

mod json;
mod line;

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use self::line::Line;
use super::color::Color;
use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::source::PacketFilter;

/// Arguments of `recorder show`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ShowArgs {
    /// The recording or other capture file, compressed or not; `-` is standard input
    pub file: PathBuf,
    /// Print one JSON object a line (docs/FORMAT.md)
    #[arg(long)]
    pub json: bool,
    /// Print only packets that this libpcap filter lets through; see pcap-filter(7)
    #[arg(short, long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// When to print in colour; `auto` is on a terminal, unless NO_COLOR is set
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub color: Color,
    /// Whose packets to print.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Prints the packets of a recording. When `out` is a pipe that its reader closes, it stops without an error.
///
/// # Errors
/// If the packet filter makes no sense, the file cannot be read to its end (all packets before that have been printed), or `out`
/// not written.
pub fn run(args: &ShowArgs, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let mut packets = args.filter.as_deref().map(PacketFilter::new).transpose()?;
    let (mut reader, mut selected) = open_selected(&args.file, &args.selection)?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let mut line = Line::new(args.color.is_wanted());
    let mut number = 0_u64;
    let failure = loop {
        let record = match reader.next_packet() {
            Ok(Some(record)) => record,
            Ok(None) => break None,
            Err(source) => break Some(Error::Read { path: args.file.clone(), source }),
        };
        number += 1;
        if packets.as_mut().is_some_and(|filter| !filter.passes(&record.packet, record.interface.link_type))
            || selected.as_mut().is_some_and(|filter| !filter.keeps(&record.attribution, record.processes))
        {
            continue;
        }
        let printed = match args.json {
            true => json::print(&mut out, number, &record),
            false => out.write_all(line.of(&record)),
        };
        if let Err(error) = printed {
            // What is still in the buffer cannot be written either.
            let _ = out.into_parts();
            return ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS);
        }
    };
    ignore_broken_pipe(out.flush())?;
    // The buffer is empty, or the pipe is closed: nothing may be written when it goes out of scope.
    let _ = out.into_parts();
    for note in packets.iter().flat_map(PacketFilter::notes) {
        // Nobody can be told that standard error is closed.
        let _ = writeln!(io::stderr(), "recorder: {}", text::message(note));
    }
    failure.map_or(Ok(()), Err)?;
    late(&args.file, selected.map_or(0, |filter| filter.misjudged(reader.processes())))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
pub(super) mod tests {
    use std::path::Path;

    use clap::Parser;

    use super::super::{Cli, Command};
    use super::*;
    use crate::model::*;
    use crate::pcapng::{Annotate, SectionInfo, Writer};

    fn process(pid: u32, name: &str) -> Process {
        Process { path: Some(format!("/bin/{name}").into()), ..Process::new(pid, name) }
    }

    /// From 10.0.0.1:40000 to 10.0.0.2:443, SYN.
    const TCP: [u8; 40] = [
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, // IP
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0, 0, 0, 0, 0, 0,
    ];

    /// Three packets: curl to nginx, both here; to curl; and nobody's, which is not IP.
    pub(in crate::cli) fn recording() -> Vec<u8> {
        recording_with(Annotate::ALL)
    }

    fn recording_with(annotate: Annotate) -> Vec<u8> {
        let mut table = ProcessTable::default();
        let curl = Some(Owner { process: table.push(process(4242, "curl")), tid: 4243 });
        let nginx = Some(Owner { process: table.push(process(99, "nginx")), tid: 0 });
        let mut writer = Writer::new(Vec::new(), annotate, &SectionInfo::default());
        let interface = Interface {
            name: "tun0\x1b".into(),
            description: None,
            link_type: LinkType::RAW_IP,
            mac: None,
            snap_length: 0,
            filter: None,
        };
        writer.add_interface(&interface).unwrap();
        let found = Found::Socket;
        let owners = [
            Attribution::Known { sender: curl, receiver: nginx, both_local: true, found },
            Attribution::Known { sender: None, receiver: curl, both_local: false, found },
            Attribution::Unknown(Reason::NotIp),
        ];
        let mut statistics = Statistics { events_lost: 1, ..Statistics::default() };
        for (index, attribution) in owners.iter().enumerate() {
            let data: &[u8] = if index == 2 { &[] } else { &TCP };
            let packet = Packet {
                interface: InterfaceId(0),
                time: RealTime::from_ns(1_700_000_000_000_000_000 + index as u64),
                direction: [Direction::Outbound, Direction::Inbound, Direction::Unknown][index],
                reception: [Reception::Unknown, Reception::Unicast, Reception::Unknown][index],
                original_length: 100 * (index as u32 + 1),
                data,
            };
            statistics.attribution.count(attribution);
            writer.packet(&packet, attribution, &table).unwrap();
        }
        statistics.interfaces =
            vec![InterfaceCounts { received: 5, dropped_by_kernel: Some(2), dropped_by_us: 0, written: 3 }];
        writer.finish(&statistics, &table).unwrap()
    }

    fn args(file: &Path, json: bool) -> ShowArgs {
        ShowArgs {
            file: file.into(),
            json,
            filter: None,
            color: Color::Never,
            selection: SelectionArgs::default(),
        }
    }

    fn show(file: &[u8], json: bool) -> (String, Result<ExitCode, Error>) {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), file).unwrap();
        let mut out = Vec::new();
        let result = run(&args(path.path(), json), &mut out);
        (String::from_utf8(out).unwrap(), result)
    }

    #[test]
    fn each_packet_is_a_line_with_its_processes() {
        let (out, result) = show(&recording(), false);
        assert!(result.is_ok());
        // The date and the time depend on the time zone of the machine.
        let lines: Vec<&str> = out.lines().map(|line| line.splitn(3, ' ').nth(2).unwrap()).collect();
        assert_eq!(
            lines,
            [
                "tun0\\x1b Out TCP 10.0.0.1:40000 -> 10.0.0.2:443 [S] length 100 (captured 40)  \
                 curl[4242] > nginx[99]",
                r"tun0\x1b In TCP 10.0.0.1:40000 -> 10.0.0.2:443 [S] length 200 (captured 40)  curl[4242]",
                r"tun0\x1b - ? length 300 (captured 0)  -",
            ]
        );
        assert!(out.lines().all(|line| line.split(' ').nth(1).unwrap().len() == "01:22:47.123456789".len()));
    }

    #[test]
    fn json_has_one_object_a_line() {
        let (out, result) = show(&recording(), true);
        assert!(result.is_ok());
        let objects: Vec<serde_json::Value> =
            out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(
            objects[0],
            serde_json::json!({
                "frame": 1, "time_ns": 1_700_000_000_000_000_000_u64, "interface": "tun0\u{1b}",
                "direction": "out", "length": 100, "captured": 40, "protocol": "TCP",
                "source": "10.0.0.1", "source_port": 40000, "destination": "10.0.0.2", "destination_port": 443,
                "tcp_flags": "S", "payload_length": 0,
                "sender": {"pid": 4242, "tid": 4243, "name": "curl", "path": "/bin/curl"},
                "receiver": {"pid": 99, "name": "nginx", "path": "/bin/nginx"},
            })
        );
        assert_eq!(objects[1]["reception"], "unicast");
        assert_eq!(objects[1]["receiver"]["tid"], 4243);
        assert_eq!(objects[2].get("sender"), None);
    }

    #[test]
    fn a_packet_filter_leaves_the_numbers_of_packets_as_they_are() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), recording()).unwrap();
        let show = |filter: &str, json| {
            let args = ShowArgs { filter: Some(filter.to_owned()), ..args(path.path(), json) };
            let mut out = Vec::new();
            run(&args, &mut out).map(|_| String::from_utf8(out).unwrap())
        };
        assert_eq!(show("tcp port 443", false).unwrap().lines().count(), 2);
        let one = show("greater 150 and tcp", true).unwrap();
        assert!(one.starts_with("{\"frame\":2,") && one.lines().count() == 1, "{one}");
        assert_eq!(show("udp", false).unwrap(), "");
        assert_eq!(show("tcp prt 1", false).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn colour_stands_around_the_words_and_nowhere_else() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), recording()).unwrap();
        let mut out = Vec::new();
        run(&ShowArgs { color: Color::Always, ..args(path.path(), false) }, &mut out).unwrap();
        let mut colored = String::from_utf8(out).unwrap();
        assert!(colored.contains("\x1b[1;32mcurl[4242] > nginx[99]\x1b[0m\n"), "{colored:?}");
        for code in ["2", "36", "33", "1", "1;32", "0"] {
            colored = colored.replace(&format!("\x1b[{code}m"), "");
        }
        assert_eq!(colored, show(&recording(), false).0);
    }

    #[test]
    fn a_cut_file_shows_what_is_there_and_then_fails() {
        let file = recording();
        let (out, result) = show(&file[..file.len() - 10], false);
        assert_eq!(out.lines().count(), 3);
        let error = result.unwrap_err();
        assert_eq!(error.exit_code(), 1);
        assert!(error.to_string().contains("the file ends inside the block at byte "), "{error}");
    }

    #[test]
    fn what_a_file_tells_of_its_processes_behind_their_packets_counts_too() {
        let path = tempfile::NamedTempFile::new().unwrap();
        let show = |annotate: Annotate, option: &str, value: &str| {
            std::fs::write(path.path(), recording_with(annotate)).unwrap();
            let arguments = ["recorder", "show", path.path().to_str().unwrap(), option, value];
            let Command::Show(args) = Cli::try_parse_from(arguments).unwrap().command else { panic!() };
            let mut out = Vec::new();
            let result = run(&args, &mut out).map(drop).map_err(|error| error.exit_code());
            (result, out.iter().filter(|b| **b == b'\n').count())
        };
        for annotate in [Annotate::ALL, Annotate { darwin: false, ..Annotate::ALL }] {
            assert_eq!(show(annotate, "--exe", "/bin/curl"), (Ok(()), 2));
            assert_eq!(show(annotate, "--exe", "/bin/wget"), (Ok(()), 0));
            assert_eq!(show(annotate, "--name", "curl"), (Ok(()), 2));
        }
    }

    #[test]
    fn a_missing_file_is_told_by_name() {
        let error = run(&args(Path::new("/no/such/file"), false), &mut Vec::new()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().starts_with("cannot open /no/such/file: "), "{error}");
    }

    /// Refuses everything, as a pipe does whose reader left.
    struct Closed(io::ErrorKind);

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_broken_pipe_is_no_error_and_a_full_disk_is() {
        let path = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(path.path(), recording()).unwrap();
        let args = args(path.path(), false);
        assert!(run(&args, &mut Closed(io::ErrorKind::BrokenPipe)).is_ok());
        assert!(matches!(run(&args, &mut Closed(io::ErrorKind::StorageFull)), Err(Error::Write(_))));
    }
}
