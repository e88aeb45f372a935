//! The records of processes: Apple's process block, Wireshark's Process Information block, and the JSON that
//! both carry for what has no field of its own. Pure: from a [`Process`] to bytes, and back.

use serde::{Deserialize, Serialize};

use super::annotation::{escape_name, escape_text, unescape_name, unescape_text};
use super::encode::{begin_block, end_block, end_of_options, option, padding, text_option};
use super::{block, option as code};
use crate::model::{CommandLine, Process, RealTime};

/// The private enterprise number of Wireshark's own custom blocks.
pub(super) const WIRESHARK_PEN: u32 = 32622;
/// The entry type of a Process Information block.
pub(super) const PROCESS_ENTRY: u32 = 3;

/// The most bytes of arguments that the JSON holds: an option has room for 65535 bytes, and the JSON doubles
/// backslashes.
const ARGUMENTS_LIMIT: usize = 24 * 1024;

/// Options of the Darwin process block (Apple's pcap-ng.h).
mod darwin {
    pub(super) const NAME: u16 = 2;
    pub(super) const PATH: u16 = 3;
    pub(super) const UUID: u16 = 4;
}

/// Options of a Process Information entry (Wireshark's wiretap/pcapng-wireshark-custom.c).
mod entry {
    pub(super) const NAME: u16 = 2;
    pub(super) const PATH: u16 = 3;
    pub(super) const COMMAND_LINE: u16 = 4;
    pub(super) const PARENT_PID: u16 = 5;
    pub(super) const UID: u16 = 6;
    pub(super) const UUID: u16 = 8;
    pub(super) const START: u16 = 9;
}

/// What the comment of a process record holds. Unknown keys are ignored, so that later versions can add some.
#[derive(Default, Serialize, Deserialize)]
struct Details {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ppid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    start_ns: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    container: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unit: Option<String>,
    /// The arguments, each with the escapes of `escape_text`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cmdline: Option<Vec<String>>,
    /// Whether the end of `cmdline` is missing.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    cmdline_cut: bool,
}

impl Details {
    fn of(process: &Process) -> Self {
        let (cmdline, cmdline_cut) = match &process.command_line {
            Some(line) => {
                let (arguments, is_cut) = arguments(line);
                (Some(arguments), is_cut || line.is_cut)
            }
            None => (None, false),
        };
        Self {
            ppid: process.parent_pid,
            uid: process.uid,
            start_ns: process.start.map(RealTime::as_ns),
            cgroup: process.cgroup.clone(),
            container: process.container.clone(),
            unit: process.unit.clone(),
            cmdline,
            cmdline_cut,
        }
    }

    /// Adds to `process` what it does not have yet.
    fn fill(self, process: &mut Process) {
        let Self { ppid, uid, start_ns, cgroup, container, unit, cmdline, cmdline_cut } = self;
        process.parent_pid = process.parent_pid.or(ppid);
        process.uid = process.uid.or(uid);
        process.start = process.start.or(start_ns.map(RealTime::from_ns));
        process.cgroup = process.cgroup.take().or(cgroup);
        process.container = process.container.take().or(container);
        process.unit = process.unit.take().or(unit);
        process.command_line = process.command_line.take().or_else(|| {
            let mut bytes = Vec::new();
            for argument in cmdline? {
                bytes.extend_from_slice(&unescape_text(&argument));
                bytes.push(0);
            }
            Some(CommandLine { bytes, is_cut: false })
        });
        if let Some(line) = &mut process.command_line {
            line.is_cut |= cmdline_cut;
        }
    }
}

/// Adds the Darwin process block of `process`.
pub(super) fn darwin_block(buffer: &mut Vec<u8>, process: &Process) {
    let start = begin_block(buffer, block::DARWIN_PROCESS);
    buffer.extend_from_slice(&process.pid.to_le_bytes());
    // The name comes first, and is never missing: Wireshark 4.6 stops reading at an option it does not know
    // (the path), and a process without a name has no fields there.
    text_option(buffer, darwin::NAME, &escape_name(&process.name));
    option(buffer, darwin::UUID, &uuid(process));
    if let Some(path) = &process.path {
        text_option(buffer, darwin::PATH, &escape_text(path));
    }
    details_option(buffer, process);
    end_of_options(buffer);
    end_block(buffer, start);
}

/// Adds the Wireshark Process Information block of `process`.
pub(super) fn custom_block(buffer: &mut Vec<u8>, process: &Process) {
    let start = begin_block(buffer, block::CUSTOM);
    buffer.extend_from_slice(&WIRESHARK_PEN.to_le_bytes());
    buffer.extend_from_slice(&PROCESS_ENTRY.to_le_bytes());
    let length_at = buffer.len();
    buffer.extend_from_slice(&[0; 4]);

    buffer.extend_from_slice(&process.pid.to_le_bytes());
    text_option(buffer, entry::NAME, &escape_name(&process.name));
    if let Some(path) = &process.path {
        text_option(buffer, entry::PATH, &escape_text(path));
    }
    if let Some(line) = &process.command_line {
        option(buffer, entry::COMMAND_LINE, &line.bytes);
    }
    if let Some(parent) = process.parent_pid {
        option(buffer, entry::PARENT_PID, &parent.to_le_bytes());
    }
    if let Some(uid) = process.uid {
        option(buffer, entry::UID, &uid.to_le_bytes());
    }
    option(buffer, entry::UUID, &uuid(process));
    // Wireshark joins by process id and start time; without it, a reused pid resolves to the newest process.
    if let Some(start) = process.start {
        option(buffer, entry::START, &start.as_ns().to_le_bytes());
    }
    details_option(buffer, process);
    end_of_options(buffer);

    let length = (buffer.len() - length_at - 4) as u32;
    buffer[length_at..length_at + 4].copy_from_slice(&length.to_le_bytes());
    end_block(buffer, start);
}

fn details_option(buffer: &mut Vec<u8>, process: &Process) {
    // Numbers and texts only, so this cannot fail; if it does, the record still stands without details.
    match serde_json::to_string(&Details::of(process)) {
        Ok(json) if json != "{}" => text_option(buffer, code::COMMENT, &json),
        _ => {}
    }
}

/// The process that a Darwin process block describes. `body` is what lies between the two lengths.
pub(super) fn read_darwin(body: &[u8], is_big_endian: bool) -> Option<Process> {
    let (pid, options) = body.split_first_chunk::<4>()?;
    let pid = number(*pid, is_big_endian);
    let mut process = Process::new(pid, Vec::new());
    for (option, value) in Options::new(options, is_big_endian) {
        match option {
            darwin::NAME => process.name = unescape_name(&text(value)),
            darwin::PATH => process.path = Some(unescape_text(&text(value))),
            darwin::UUID => process.uuid = value.try_into().ok(),
            code::COMMENT => read_details(value, &mut process),
            _ => {}
        }
    }
    Some(without_own_uuid(process))
}

/// The process that a Wireshark Process Information block describes; `body` is what lies between the lengths
/// of a custom block. `None` for every other custom block.
pub(super) fn read_custom(body: &[u8], is_big_endian: bool) -> Option<Process> {
    let (pen, data) = body.split_first_chunk::<4>()?;
    if number(*pen, is_big_endian) != WIRESHARK_PEN {
        return None;
    }
    // From here on the data is always little-endian.
    let (entry_type, data) = data.split_first_chunk::<4>()?;
    let (length, data) = data.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*entry_type) != PROCESS_ENTRY {
        return None;
    }
    let data = data.get(..u32::from_le_bytes(*length) as usize)?;
    let (pid, options) = data.split_first_chunk::<4>()?;
    let mut process = Process::new(u32::from_le_bytes(*pid), Vec::new());
    for (option, value) in Options::new(options, false) {
        match option {
            entry::NAME => process.name = unescape_name(&text(value)),
            entry::PATH => process.path = Some(unescape_text(&text(value))),
            entry::COMMAND_LINE => {
                process.command_line = Some(CommandLine { bytes: value.to_vec(), is_cut: false });
            }
            entry::PARENT_PID => process.parent_pid = value.try_into().ok().map(u32::from_le_bytes),
            entry::UUID => process.uuid = value.try_into().ok(),
            entry::UID => process.uid = value.try_into().ok().map(u32::from_le_bytes),
            entry::START => {
                process.start = value.try_into().ok().map(u64::from_le_bytes).map(RealTime::from_ns);
            }
            code::COMMENT => read_details(value, &mut process),
            _ => {}
        }
    }
    Some(without_own_uuid(process))
}

/// The UUID that is made from the other values is not one more value.
fn without_own_uuid(mut process: Process) -> Process {
    let theirs = process.uuid.take();
    process.uuid = theirs.filter(|theirs| *theirs != uuid(&process));
    process
}

/// Apple's own comments, and those of people, are no JSON of ours: they are left alone.
fn read_details(value: &[u8], process: &mut Process) {
    if let Ok(details) = serde_json::from_slice::<Details>(value) {
        details.fill(process);
    }
}

/// A text of a file; the draft forbids trusting that it is UTF-8, and lets a zero byte end it.
pub(super) fn text(value: &[u8]) -> String {
    let value = value.split(|byte| *byte == 0).next().unwrap_or(value);
    String::from_utf8_lossy(value).into_owned()
}

/// The arguments, escaped, as many as there is room for; and whether some are missing.
fn arguments(line: &CommandLine) -> (Vec<String>, bool) {
    let mut room = ARGUMENTS_LIMIT;
    let mut arguments = Vec::new();
    for argument in line.arguments() {
        let argument = escape_text(argument);
        let Some(left) = room.checked_sub(argument.len() + 3) else {
            return (arguments, true);
        };
        room = left;
        arguments.push(argument);
    }
    (arguments, false)
}

/// The UUID that others gave the process; else a stable id of it, the same in each file in which it stands: FNV-1a (128 bits) over the process id
/// (u32), the start time in nanoseconds since the epoch (u64, 0 if unknown), both little-endian, and the
/// bytes of the path (of the name, if there is no path); the hash big-endian, with the bits of a version 8
/// UUID (RFC 9562, 5.8).
pub(super) fn uuid(process: &Process) -> [u8; 16] {
    const OFFSET_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    if let Some(theirs) = process.uuid {
        return theirs;
    }
    let start = process.start.map_or(0, RealTime::as_ns);
    let program = process.path.as_ref().unwrap_or(&process.name);
    let hash = process
        .pid
        .to_le_bytes()
        .iter()
        .chain(&start.to_le_bytes())
        .chain(program)
        .fold(OFFSET_BASIS, |hash, byte| (hash ^ u128::from(*byte)).wrapping_mul(PRIME));
    let mut uuid = hash.to_be_bytes();
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

/// Walks a list of options; ends at opt_endofopt, at the end, or at the first option that does not fit.
pub(super) struct Options<'a> {
    rest: &'a [u8],
    is_big_endian: bool,
    is_damaged: bool,
}

impl<'a> Options<'a> {
    pub(super) fn new(rest: &'a [u8], is_big_endian: bool) -> Self {
        Self { rest, is_big_endian, is_damaged: false }
    }

    /// Whether it ended at an option that does not fit.
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged
    }
}

impl<'a> Iterator for Options<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let ([a, b, c, d], rest) = self.rest.split_first_chunk::<4>()?;
        let of = if self.is_big_endian { u16::from_be_bytes } else { u16::from_le_bytes };
        let (code, length) = (of([*a, *b]), usize::from(of([*c, *d])));
        if code == 0 {
            return None;
        }
        let Some(value) = rest.get(..length) else {
            self.is_damaged = true;
            return None;
        };
        self.rest = rest.get(length + padding(length)..).unwrap_or(&[]);
        Some((code, value))
    }
}

/// A 32-bit number in the byte order of the section.
pub(super) fn number(bytes: [u8; 4], is_big_endian: bool) -> u32 {
    if is_big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) }
}
