//! `recorder replay FILE -i INTERFACE`: sends recorded packets with their timing.

use std::io::{self, Write};
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde::Serialize;

use super::selection::{AFTER_HELP, SelectionArgs};
use super::{Error, late, open_selected, text};
use crate::decode::{Network, Rewrite};
use crate::model::{Direction, LinkType};
use crate::pcapng::Record;
use crate::pipeline::Signals;
use crate::replay::{Batch, Pace, Played, Report, Schedule, Shaper, Sink, play};
use crate::selection::ProcessFilter;
use crate::source::{PacketFilter, Transmitter};

/// Arguments of `recorder replay`.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = AFTER_HELP)]
pub struct ReplayArgs {
    /// The recording; `-` is standard input
    pub file: PathBuf,
    /// Send on this interface
    #[arg(short, long, value_name = "NAME")]
    pub interface: String,
    /// So many times faster than recorded; 0.5 is half as fast
    #[arg(short = 'x', long, value_name = "FACTOR", value_parser = factor, group = "pace")]
    pub speed: Option<f64>,
    /// So many packets in a second, or bits: 1000, 20kpps, 10Mbit
    #[arg(short, long, value_name = "RATE", value_parser = rate, group = "pace")]
    pub rate: Option<Pace>,
    /// As fast as the interface takes them
    #[arg(short, long, group = "pace")]
    pub top_speed: bool,
    /// Send the recording so many times; 0 is until a signal
    #[arg(short, long = "loop", value_name = "N", default_value_t = 1)]
    pub passes: u64,
    /// Only packets that this libpcap filter lets through; see pcap-filter(7)
    #[arg(short, long, value_name = "EXPR")]
    pub filter: Option<String>,
    /// Only packets that were recorded as incoming, or as outgoing
    #[arg(long, value_enum)]
    pub direction: Option<DirectionArg>,
    /// Write the final report as one JSON object
    #[arg(long)]
    pub json: bool,
    /// What to change.
    #[command(flatten)]
    pub rewrite: RewriteArgs,
    /// Whose packets to send.
    #[command(flatten)]
    pub selection: SelectionArgs,
}

/// Which way packets went when they were recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DirectionArg {
    /// Received
    In,
    /// Sent
    Out,
}

/// What is changed in packets; their checksums are made right then.
#[derive(Clone, Debug, clap::Args)]
pub struct RewriteArgs {
    /// The sender's Ethernet address
    #[arg(long, value_name = "MAC", value_parser = mac, help_heading = "Rewriting")]
    pub enet_smac: Option<[u8; 6]>,
    /// The receiver's Ethernet address; packets that have no Ethernet header need it on an interface that does
    #[arg(long, value_name = "MAC", value_parser = mac, help_heading = "Rewriting")]
    pub enet_dmac: Option<[u8; 6]>,
    /// Addresses in network OLD get the first bits of NEW, at both ends: 10.0.0.0/8:192.168.0.0/16, [fd00::/64]:[fd01::/64]; repeatable
    #[arg(long, value_name = "OLD:NEW", value_parser = pnat, help_heading = "Rewriting")]
    pub pnat: Vec<(Network, Network)>,
    /// Make all checksums right, also where nothing was changed
    #[arg(long, help_heading = "Rewriting")]
    pub fix_checksums: bool,
}

impl ReplayArgs {
    fn pace(&self) -> Pace {
        match self {
            Self { top_speed: true, .. } => Pace::TopSpeed,
            Self { rate: Some(rate), .. } => *rate,
            Self { speed, .. } => Pace::Recorded(speed.unwrap_or(1.0)),
        }
    }

    fn rewrite(&self) -> Rewrite {
        let RewriteArgs { enet_smac, enet_dmac, pnat, fix_checksums } = &self.rewrite;
        Rewrite {
            source_mac: *enet_smac,
            destination_mac: *enet_dmac,
            networks: pnat.clone(),
            fix_checksums: *fix_checksums,
        }
    }
}

/// Sends a recording. Says on standard error what was sent, and what was not.
///
/// # Errors
/// If the filter makes no sense, the file cannot be opened or read to its end, or the interface takes nothing.
pub fn run(args: &ReplayArgs) -> Result<ExitCode, Error> {
    let signals = Signals::install().map_err(Error::Signals)?;
    let packets = args.filter.as_deref().map(PacketFilter::new).transpose()?;
    let transmitter =
        Transmitter::open(&args.interface).map_err(|source| Error::Transmit { source, packets: 0 })?;
    let takes = Takes { link_type: transmitter.link_type(), longest: transmitter.longest(&[]) };
    let shaper = Shaper::new(transmitter.link_type(), transmitter.mac(), args.rewrite());
    let mut reading = Reading { args: args.clone(), packets, notes_told: 0, is_again: false };
    let played = play(
        transmitter,
        Schedule::new(args.pace()),
        NonZeroU64::new(args.passes),
        &|| signals.stop().is_some(),
        move |sink| reading.read(&shaper, sink),
    );
    let Played { report, unread, unsent } = played;
    let unsent = unsent.map(|source| Error::Transmit { source, packets: report.packets });
    let failure = unread.or(unsent);
    let exit_code = match (&failure, report.failed(), report.packets) {
        (Some(error), ..) => error.exit_code(),
        (None, 0, _) => 0,
        (None, _, 0) => 2,
        (None, ..) => 1,
    };
    if args.json {
        json(args, &report, exit_code)?;
    } else if report.packets > 0 || failure.is_none() {
        tell(args, takes, &report);
    }
    failure.map_or(Ok(ExitCode::from(exit_code)), Err)
}

/// What the interface takes.
#[derive(Clone, Copy)]
struct Takes {
    link_type: LinkType,
    /// In bytes.
    longest: usize,
}

/// Reads a recording from its beginning to its end, as often as it is asked.
struct Reading {
    args: ReplayArgs,
    packets: Option<PacketFilter>,
    notes_told: usize,
    is_again: bool,
}

impl Reading {
    fn read(&mut self, shaper: &Shaper, sink: Sink<'_>) -> Result<(), Error> {
        let path = self.args.file.clone();
        if std::mem::replace(&mut self.is_again, true) && path == Path::new("-") {
            return Err(Error::Again);
        }
        let (mut reader, mut processes) = open_selected(&path, &self.args.selection)?;
        let mut batch = Batch::default();
        let failure = loop {
            match reader.next_packet() {
                Ok(Some(record)) if self.chooses(&record, processes.as_mut()) => {
                    shaper.add(&record.packet, record.interface.link_type, &mut batch);
                }
                Ok(Some(_)) => {}
                Ok(None) => break None,
                Err(source) => break Some(Error::Read { path: path.clone(), source }),
            }
            if batch.is_full() {
                let Some(empty) = sink(std::mem::take(&mut batch)) else { return Ok(()) };
                batch = empty;
            }
        };
        sink(batch);
        self.tell_notes();
        let misjudged = processes.map_or(0, |filter| filter.misjudged(reader.processes()));
        failure.map_or_else(|| late(&path, misjudged), Err)
    }

    fn chooses(&mut self, record: &Record<'_>, processes: Option<&mut ProcessFilter>) -> bool {
        let direction = match self.args.direction {
            None => record.packet.direction,
            Some(DirectionArg::In) => Direction::Inbound,
            Some(DirectionArg::Out) => Direction::Outbound,
        };
        record.packet.direction == direction
            && processes.is_none_or(|filter| filter.keeps(&record.attribution, record.processes))
            && self
                .packets
                .as_mut()
                .is_none_or(|filter| filter.passes(&record.packet, record.interface.link_type))
    }

    fn tell_notes(&mut self) {
        let notes = self.packets.as_ref().map(PacketFilter::notes).unwrap_or_default();
        for note in notes.iter().skip(self.notes_told) {
            // Nobody can be told that standard error is closed.
            let _ = writeln!(io::stderr(), "recorder: {}", text::message(note));
        }
        self.notes_told = notes.len();
    }
}

/// For people.
fn tell(args: &ReplayArgs, takes: Takes, report: &Report) {
    let Report { packets, bytes, duration, latest, .. } = report;
    let seconds = duration.as_secs_f64();
    let per_second = |count: u64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
    let interface = text::safe(&args.interface);
    let mut told = format!("{packets} packets, {bytes} bytes sent on {interface} in {seconds:.3} s");
    told += &format!(": {:.0} packets/s, {:.3} Mbit/s\n", per_second(*packets), per_second(8 * bytes) / 1e6);
    if !args.top_speed && *packets > 0 {
        told += &format!("the latest was sent {:.3} ms after its time\n", latest.as_secs_f64() * 1e3);
    }
    if report.cut > 0 {
        told += &format!("{} of them were sent as short as they were recorded\n", report.cut);
    }
    if report.failed() > 0 {
        told += &format!("{} packets failed\n", report.failed());
    }
    for (packets, why, remedy) in failures(takes, report) {
        told += &format!("recorder: {packets} packets {why}, and were not sent\n");
        if !remedy.is_empty() {
            told += &format!("  {remedy}\n");
        }
    }
    // Nobody can be told that standard error is closed.
    let _ = io::stderr().write_all(told.as_bytes());
}

/// Why packets were not sent, and what to do about it.
fn failures(takes: Takes, report: &Report) -> Vec<(u64, String, String)> {
    let Report { too_long, too_short, longest, refused, unfit, .. } = report;
    let mut failures = Vec::new();
    for (link_type, packets) in unfit {
        let why = format!("of link type {link_type} have no header that the interface takes");
        let remedy = match takes.link_type {
            LinkType::ETHERNET => "IP without an Ethernet header is given one by --enet-dmac",
            _ => {
                "the interface takes bare IP: send what begins with an Ethernet header on an Ethernet interface"
            }
        };
        failures.push((*packets, why, remedy.to_owned()));
    }
    if *too_long > 0 {
        let why = format!("are longer than the {} bytes that the interface takes", takes.longest);
        failures.push((
            *too_long,
            why,
            format!("the longest has {longest} bytes: set the MTU of the interface accordingly"),
        ));
    }
    if *too_short > 0 {
        failures.push((*too_short, "are shorter than an Ethernet header".to_owned(), String::new()));
    }
    if *refused > 0 {
        failures.push((*refused, "were not taken by the kernel".to_owned(), String::new()));
    }
    failures
}

/// For programs; docs/FORMAT.md has the keys.
#[derive(Serialize)]
struct JsonReport<'a> {
    interface: &'a str,
    packets: u64,
    bytes: u64,
    duration_ns: u64,
    latest_ns: u64,
    passes: u64,
    cut: u64,
    failed: u64,
    too_long: u64,
    too_short: u64,
    unfit: u64,
    refused: u64,
    exit_code: u8,
}

fn json(args: &ReplayArgs, report: &Report, exit_code: u8) -> Result<(), Error> {
    let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let object = JsonReport {
        interface: &args.interface,
        packets: report.packets,
        bytes: report.bytes,
        duration_ns: ns(report.duration),
        latest_ns: ns(report.latest),
        passes: report.passes,
        cut: report.cut,
        failed: report.failed(),
        too_long: report.too_long,
        too_short: report.too_short,
        unfit: report.unfit.values().sum(),
        refused: report.refused,
        exit_code,
    };
    let line = text::json(serde_json::to_string(&object).map_err(io::Error::from)?);
    // Nobody can be told that standard error is closed.
    let _ = writeln!(io::stderr(), "{line}");
    Ok(())
}

fn factor(text: &str) -> Result<f64, String> {
    let factor = text.parse::<f64>().ok().filter(|factor| factor.is_finite() && *factor > 0.0);
    factor.ok_or_else(|| "give a positive number: 2 is twice as fast, 0.5 half as fast".to_owned())
}

fn rate(text: &str) -> Result<Pace, String> {
    let wrong = || {
        "give packets in a second, or bits with their unit: 1000, 20kpps, 500kbit, 10Mbit, 1Gbit".to_owned()
    };
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix("/s").unwrap_or(&unit);
    let (prefix, pace): (_, fn(NonZeroU64) -> Pace) =
        match (unit.strip_suffix("pps"), unit.strip_suffix("bit")) {
            (Some(prefix), _) => (prefix, Pace::Packets),
            (_, Some(prefix)) => (prefix, Pace::Bits),
            _ if unit.is_empty() => ("", Pace::Packets),
            _ => return Err(wrong()),
        };
    let factor = match prefix {
        "" => 1.0,
        "k" => 1e3,
        "m" => 1e6,
        "g" => 1e9,
        _ => return Err(wrong()),
    };
    let number = number.parse::<f64>().map_err(|_| wrong())? * factor;
    NonZeroU64::new(number.round() as u64).map(pace).ok_or_else(wrong)
}

fn mac(text: &str) -> Result<[u8; 6], String> {
    let bytes: Vec<u8> = text
        .split([':', '-'])
        .map(|byte| u8::from_str_radix(byte, 16).ok().filter(|_| byte.len() <= 2 && !byte.starts_with('+')))
        .collect::<Option<_>>()
        .unwrap_or_default();
    bytes.try_into().map_err(|_| "give six bytes: 02:00:00:00:00:01".to_owned())
}

fn pnat(text: &str) -> Result<(Network, Network), String> {
    let wrong = || {
        "give two networks of one family: 10.0.0.0/8:192.168.0.0/16, or [fd00::/64]:[fd01::/64]".to_owned()
    };
    let (old, new) = match text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        Some(both) => both.split_once("]:["),
        None => text.split_once(':'),
    }
    .ok_or_else(wrong)?;
    let pair = network(old).zip(network(new));
    pair.filter(|(old, new)| old.is_ipv4() == new.is_ipv4()).ok_or_else(wrong)
}

/// With a prefix length, or one address.
fn network(text: &str) -> Option<Network> {
    let Some((address, prefix)) = text.split_once('/') else { return text.parse().ok().map(Network::host) };
    Network::new(address.parse::<IpAddr>().ok()?, prefix.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: ReplayArgs,
    }

    fn arguments(line: &str) -> Result<ReplayArgs, String> {
        let words = ["replay", "a.pcapng", "-i", "veth0"].into_iter().chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_pace_is_the_recorded_one_unless_another_is_asked_for() {
        let packets = |rate| Pace::Packets(NonZeroU64::new(rate).unwrap());
        let bits = |rate| Pace::Bits(NonZeroU64::new(rate).unwrap());
        for (line, pace) in [
            ("", Pace::Recorded(1.0)),
            ("--speed 2.5", Pace::Recorded(2.5)),
            ("-x 0.5", Pace::Recorded(0.5)),
            ("--rate 1000", packets(1000)),
            ("--rate 1000pps", packets(1000)),
            ("--rate 1.5kpps", packets(1500)),
            ("-r 2Mpps", packets(2_000_000)),
            ("--rate 10Mbit", bits(10_000_000)),
            ("--rate 0.5Gbit/s", bits(500_000_000)),
            ("--rate 64kbit", bits(64_000)),
            ("--top-speed", Pace::TopSpeed),
        ] {
            assert_eq!(arguments(line).map(|args| args.pace()), Ok(pace), "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_told_with_an_example() {
        for (line, example) in [
            ("--speed 0", "twice as fast"),
            ("--speed -1", ""),
            ("--speed nan", "twice as fast"),
            ("--rate 0", "10Mbit"),
            ("--rate 10Mbps", "10Mbit"),
            ("--rate fast", "10Mbit"),
            ("--rate 1e3", "10Mbit"),
            ("--speed 2 --top-speed", "cannot be used with"),
            ("--rate 2 --speed 2", "cannot be used with"),
            ("--enet-smac 02:00", "02:00:00:00:00:01"),
            ("--enet-dmac 02:00:00:00:00:0g", "02:00:00:00:00:01"),
            ("--pnat 10.0.0.0/8", "[fd01::/64]"),
            ("--pnat 10.0.0.0/33:1.1.1.1", "[fd01::/64]"),
            ("--pnat [::1]:1.1.1.1", "[fd01::/64]"),
            ("--pnat [fd00::/8]:[1.1.1.1]", "[fd01::/64]"),
            ("--direction up", "in, out"),
        ] {
            let error = arguments(line).map(|args| format!("{args:?}")).unwrap_err();
            assert!(error.contains(example), "{line}: {error}");
        }
    }

    #[test]
    fn addresses_are_read_as_tcprewrite_reads_them() {
        let args = arguments(
            "--enet-smac 02:00:00:00:00:01 --enet-dmac 2-0-0-0-0-2 --pnat 10.0.0.0/8:192.168.0.0/16 --pnat [fd00::/64]:[fd01::/64]",
        );
        let rewrite = args.unwrap().rewrite();
        assert_eq!(rewrite.source_mac, Some([2, 0, 0, 0, 0, 1]));
        assert_eq!(rewrite.destination_mac, Some([2, 0, 0, 0, 0, 2]));
        let network = |text: &str, prefix| Network::new(text.parse().unwrap(), prefix).unwrap();
        assert_eq!(rewrite.networks[0], (network("10.0.0.0", 8), network("192.168.0.0", 16)));
        assert_eq!(rewrite.networks[1], (network("fd00::", 64), network("fd01::", 64)));
        assert_eq!(pnat("1.2.3.4:5.6.7.8").map(|(_, new)| new), Ok(network("5.6.7.8", 32)));
    }
}
