//! `recorder show FILE`: one line per packet, with its processes.

use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, ignore_broken_pipe, late, open_selected, text};
use crate::decode::{self, Decoded, Transport};
use crate::model::{Attribution, Direction, Owner, ProcessTable};
use crate::pcapng::Record;
use crate::pcapng::annotation::{escape_name, escape_text};

/// Arguments of `recorder show`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ShowArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// Print one JSON object a line (docs/FORMAT.md)
    #[arg(long)]
    pub json: bool,
    /// Whose packets to print.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Prints the packets of a recording. When `out` is a pipe that its reader closes, it stops without an error.
///
/// # Errors
/// If the file cannot be read to its end (all packets before that have been printed), or `out` not written.
pub fn run(args: &ShowArgs, out: &mut dyn Write) -> Result<ExitCode, Error> {
    let (mut reader, mut selected) = open_selected(&args.file, &args.selection)?;
    let mut out = BufWriter::with_capacity(1 << 16, out);
    let mut number = 0_u64;
    let failure = loop {
        let record = match reader.next_packet() {
            Ok(Some(record)) => record,
            Ok(None) => break None,
            Err(source) => break Some(Error::Read { path: args.file.clone(), source }),
        };
        number += 1;
        if selected.as_mut().is_some_and(|filter| !filter.keeps(&record.attribution, record.processes)) {
            continue;
        }
        let printed = if args.json { json(&mut out, number, &record) } else { line(&mut out, &record) };
        if let Err(error) = printed {
            // What is still in the buffer cannot be written either.
            let _ = out.into_parts();
            return ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS);
        }
    };
    ignore_broken_pipe(out.flush())?;
    // The buffer is empty, or the pipe is closed: nothing may be written when it goes out of scope.
    let _ = out.into_parts();
    failure.map_or(Ok(()), Err)?;
    late(&args.file, selected.map_or(0, |filter| filter.misjudged(reader.processes())))?;
    Ok(ExitCode::SUCCESS)
}

/// `2026-11-21 01:22:47.123456789 eth0 Out TCP 10.0.0.1:40000 -> 10.0.0.2:443 [S] length 74  curl[4242]`
fn line(out: &mut impl Write, record: &Record<'_>) -> io::Result<()> {
    let packet = &record.packet;
    let decoded = decode::packet(record.interface.link_type, packet.data);
    write!(
        out,
        "{} {} {} {}",
        text::local_time(packet.time),
        text::safe(&record.interface.name),
        text::direction(packet.direction),
        text::protocol(&decoded),
    )?;
    if let Decoded::Ip(ip) = &decoded {
        write!(out, " {} -> {}", text::endpoint(ip, ip.flow.local), text::endpoint(ip, ip.flow.remote))?;
        let transport = text::transport(ip);
        if !transport.is_empty() {
            write!(out, " {transport}")?;
        }
    }
    write!(out, " length {}", packet.original_length)?;
    if (packet.data.len() as u64) < u64::from(packet.original_length) {
        write!(out, " (captured {})", packet.data.len())?;
    }
    writeln!(out, "  {}", text::owners(&record.attribution, record.processes))
}

/// One packet as `--json` prints it. docs/FORMAT.md describes it; keys are only ever added.
#[derive(Serialize)]
struct PacketJson<'a> {
    frame: u64,
    time_ns: u64,
    interface: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reception: Option<&'static str>,
    length: u32,
    captured: usize,
    protocol: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    destination_port: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_flags: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_length: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_type: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    icmp_code: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    echo_id: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fragment_offset: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sender: Option<OwnerJson>,
    #[serde(skip_serializing_if = "Option::is_none")]
    receiver: Option<OwnerJson>,
}

/// One end of a packet.
#[derive(Serialize)]
struct OwnerJson {
    pid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    tid: Option<u32>,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cmdline: Option<Vec<String>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cmdline_cut: bool,
}

impl OwnerJson {
    fn of(owner: Option<Owner>, processes: &ProcessTable) -> Option<Self> {
        let owner = owner?;
        let process = processes.get(owner.process)?;
        let line = process.command_line.as_ref();
        Some(Self {
            pid: process.pid,
            tid: (owner.tid != 0).then_some(owner.tid),
            name: escape_name(&process.name),
            path: process.path.as_ref().map(|path| escape_text(path)),
            uid: process.uid,
            cgroup: process.cgroup.clone(),
            container: process.container.clone(),
            unit: process.unit.clone(),
            cmdline: line.map(|line| line.arguments().map(escape_text).collect()),
            cmdline_cut: line.is_some_and(|line| line.is_cut),
        })
    }
}

fn json(out: &mut impl Write, frame: u64, record: &Record<'_>) -> io::Result<()> {
    let packet = &record.packet;
    let decoded = decode::packet(record.interface.link_type, packet.data);
    let (sender, receiver) = match record.attribution {
        Attribution::Known { sender, receiver, .. } => (sender, receiver),
        Attribution::Unknown(_) => (None, None),
    };
    let mut object = PacketJson {
        frame,
        time_ns: packet.time.as_ns(),
        interface: &record.interface.name,
        direction: match packet.direction {
            Direction::Unknown => None,
            Direction::Inbound => Some("in"),
            Direction::Outbound => Some("out"),
        },
        reception: text::reception(packet.reception),
        length: packet.original_length,
        captured: packet.data.len(),
        protocol: text::protocol(&decoded),
        source: None,
        source_port: None,
        destination: None,
        destination_port: None,
        tcp_flags: None,
        payload_length: None,
        icmp_type: None,
        icmp_code: None,
        echo_id: None,
        fragment_offset: None,
        sender: OwnerJson::of(sender, record.processes),
        receiver: OwnerJson::of(receiver, record.processes),
    };
    object.add_headers(&decoded);
    serde_json::to_writer(&mut *out, &object)?;
    out.write_all(b"\n")
}

impl PacketJson<'_> {
    fn add_headers(&mut self, decoded: &Decoded) {
        let Decoded::Ip(ip) = decoded else { return };
        let ports = text::has_ports(ip).then_some((ip.flow.local.port, ip.flow.remote.port));
        self.source = Some(ip.flow.local.ip().to_string());
        self.destination = Some(ip.flow.remote.ip().to_string());
        self.source_port = ports.map(|(source, _)| source);
        self.destination_port = ports.map(|(_, destination)| destination);
        self.fragment_offset = ip.fragment.map(|fragment| fragment.offset);
        match ip.transport {
            Transport::Tcp { flags, payload_length } => {
                self.tcp_flags = Some(text::tcp_flags(flags));
                self.payload_length = Some(payload_length);
            }
            Transport::Icmp { kind, code, echo } => {
                self.icmp_type = Some(kind);
                self.icmp_code = Some(code);
                self.echo_id = echo.then_some(ip.flow.local.port);
            }
            Transport::Udp | Transport::Other => {}
        }
    }
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
        ShowArgs { file: file.into(), json, selection: SelectionArgs::default() }
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
