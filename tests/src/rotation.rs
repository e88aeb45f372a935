//! Numbered packets, and the files of a recording in several files.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pcap_parser::Block;

use crate::blocks::{Ending, walk_bytes};
use crate::lab::Lab;
use crate::namespace::{Namespace, connect};

/// Where the TCP sequence number stands in a frame: behind the Ethernet and IPv4 headers, and the ports.
const SEQUENCE_AT: usize = 14 + 20 + 4;

/// Ethernet, IPv4, TCP.
const HEADERS: usize = 14 + 20 + 20;

/// Two namespaces with a link between them, over which numbered packets are sent, and nothing else that is TCP.
pub struct Line {
    /// Where they come from.
    pub here: Namespace,
    /// Where they are recorded, on eth1.
    pub there: Namespace,
}

impl Line {
    /// A new line.
    pub fn new() -> Self {
        let (here, there) = (Namespace::new("from"), Namespace::new("to"));
        connect(&here, &there, 1);
        Self { here, there }
    }

    /// A command that sends `count` TCP packets of this many bytes as fast as it can, to nobody: their sequence numbers count from
    /// 1 on.
    pub fn trafgen(&self, lab: &Lab, count: u32, frame_bytes: usize) -> Command {
        self.trafgen_of(lab, count, &format!("fill(0x5a, {})", frame_bytes - HEADERS))
    }

    /// The same with contents that cannot be compressed.
    pub fn trafgen_random(&self, lab: &Lab, count: u32, frame_bytes: usize) -> Command {
        self.trafgen_of(lab, count, &format!("drnd({})", frame_bytes - HEADERS))
    }

    fn trafgen_of(&self, lab: &Lab, count: u32, payload: &str) -> Command {
        let config = lab.path("trafgen.cfg");
        let packet = format!(
            "{{ eth(da={}, sa=02:00:00:00:00:01), ipv4(sa=10.77.1.1, da=10.77.1.200, ttl=64), \
             tcp(sp=1000, dp=9, seq=dinc(1, 4000000000)), {payload} }}\n",
            self.there.mac("eth1")
        );
        fs::write(&config, packet).expect("cannot write trafgen's configuration");
        let mut command = self.here.command("trafgen");
        // What sends is a child of it, and goes on when only it is killed.
        command.process_group(0);
        command.args([
            "--dev",
            "eth1",
            "--cpus",
            "1",
            "--no-cpu-stats",
            "--num",
            &count.to_string(),
            "--conf",
        ]);
        command.arg(config);
        command
    }
}

impl Default for Line {
    fn default() -> Self {
        Self::new()
    }
}

/// The files that were made from this name (`x.pcapng`: `x_00001_20261121080509.pcapng`), by their numbers.
pub fn files(path: &Path) -> Vec<(u32, PathBuf)> {
    let name = path.file_name().and_then(|name| name.to_str()).expect("our paths are UTF-8");
    let (name, suffix) = name.split_once('.').expect("our files have a suffix");
    let folder = path.parent().expect("our paths are absolute");
    let number = |other: &str| {
        let middle = other.strip_prefix(name)?.strip_suffix(suffix)?.strip_suffix('.')?;
        let (number, time) = middle.strip_prefix('_')?.split_once('_')?;
        let digits =
            |text: &str, count| text.len() == count && text.bytes().all(|byte| byte.is_ascii_digit());
        assert!(digits(number, 5) && digits(time, 14), "not a name as dumpcap makes them: {other}");
        number.parse().ok()
    };
    let entries = fs::read_dir(folder).expect("the folder is there").flatten();
    let mut files: Vec<(u32, PathBuf)> =
        entries.filter_map(|entry| Some((number(entry.file_name().to_str()?)?, entry.path()))).collect();
    files.sort();
    files
}

/// The numbers of the packets in a file, as the crate pcap-parser (not ours) reads it; a compressed one as the program zstd
/// decompresses it.
pub fn sequence(file: &Path) -> Vec<u32> {
    let (numbers, ending) = numbers(&bytes(file));
    assert_eq!(ending, Ending::Whole, "{} ends within a block", file.display());
    numbers
}

/// The same of a file that may have been cut: of its whole packets.
pub fn sequence_of_cut(file: &Path) -> Vec<u32> {
    numbers(&fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()))).0
}

fn numbers(bytes: &[u8]) -> (Vec<u32>, Ending) {
    let mut numbers = Vec::new();
    let ending = walk_bytes(bytes, |block| {
        if let Block::EnhancedPacket(packet) = block {
            let number = packet.data.get(SEQUENCE_AT..SEQUENCE_AT + 4);
            numbers.extend(number.map(|bytes| u32::from_be_bytes(bytes.try_into().expect("four bytes"))));
        }
    });
    (numbers, ending)
}

fn bytes(file: &Path) -> Vec<u8> {
    if file.extension().is_none_or(|suffix| suffix != "zst") {
        return fs::read(file).unwrap_or_else(|error| panic!("cannot read {}: {error}", file.display()));
    }
    let output = Command::new("zstd").args(["-q", "-dc"]).arg(file).output().expect("zstd runs");
    assert!(output.status.success(), "zstd: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What the program zstd makes of the beginning of a compressed file, in another file.
pub fn decompressed_as_far_as_possible(file: &Path, to: &Path) {
    let out = fs::File::create(to).expect("cannot create a file");
    let status = Command::new("zstd")
        .args(["-q", "-dc"])
        .arg(file)
        .stdout(out)
        .stderr(Stdio::null())
        .status()
        .expect("zstd runs");
    assert!(!status.success(), "{} was cut, and zstd did not notice", file.display());
}
