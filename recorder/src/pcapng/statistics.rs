//! The Interface Statistics Block, and the comments that hold what it has no option for.
//!
//! ```text
//! this interface: written 127; dropped by recorder 3
//! whole file: attributed 120; by socket 118; by listener 2; no socket 7; kernel 3; socket events lost 0; \
//!     dropped by kernel on all interfaces 5 (shared)
//! not selected: attributed 31; by socket 31; by listener 0; no socket 4
//! filtered: kept 12; left out 115; partial: all other counters are those of the original
//! ```
//! Each is a list of words and a number. Reasons that no packet had are left out, and so are snapshot and procfs. The last two
//! comments stand only where packets were left out: while recording, and by [`Copier`](super::Copier) afterwards.

use std::fmt::Write as _;

use super::encode::{begin_block, end_block, end_of_options, high_low, option, text_option};
use super::process::Options;
use super::{block, option as code};
use crate::model::{AttributionCounts, Found, InterfaceCounts, RealTime, Reason, Statistics};

mod isb {
    pub(super) const START_TIME: u16 = 2;
    pub(super) const END_TIME: u16 = 3;
    pub(super) const INTERFACE_RECEIVED: u16 = 4;
    pub(super) const FILTER_ACCEPTED: u16 = 6;
    pub(super) const OS_DROPPED: u16 = 7;
    pub(super) const USER_DELIVERED: u16 = 8;
}

const THIS_INTERFACE: &str = "this interface: ";
const WHOLE_FILE: &str = "whole file: ";
const NOT_SELECTED: &str = "not selected: ";
const FILTERED: &str = "filtered: ";
const WRITTEN: &str = "written";
const DROPPED_BY_US: &str = "dropped by recorder";
const ATTRIBUTED: &str = "attributed";
const EVENTS_LOST: &str = "socket events lost";
const DROPPED_TOGETHER: &str = "dropped by kernel on all interfaces";
const SHARED: &str = " (shared)";
const KEPT: &str = "kept";
const LEFT_OUT: &str = "left out";
/// Others read the counters too, and know nothing of copies.
const PARTIAL: &str = "; partial: all other counters are those of the original";

/// Adds the statistics block of interface number `index`.
pub(super) fn block(
    buffer: &mut Vec<u8>,
    index: u32,
    has_filter: bool,
    counts: &InterfaceCounts,
    statistics: &Statistics,
) {
    let InterfaceCounts { received, dropped_by_kernel, dropped_by_us, written } = *counts;
    let start = begin_block(buffer, block::INTERFACE_STATISTICS);
    buffer.extend_from_slice(&index.to_le_bytes());
    buffer.extend_from_slice(&high_low(statistics.end.as_ns()));

    text_option(
        buffer,
        code::COMMENT,
        &format!("{THIS_INTERFACE}{WRITTEN} {written}; {DROPPED_BY_US} {dropped_by_us}"),
    );
    let is_shared = dropped_by_kernel.is_none();
    text_option(buffer, code::COMMENT, &whole_file(statistics, is_shared));
    if statistics.not_selected.total() > 0 {
        text_option(buffer, code::COMMENT, &counts_after(NOT_SELECTED, &statistics.not_selected));
    }
    option(buffer, isb::START_TIME, &high_low(statistics.start.as_ns()));
    option(buffer, isb::END_TIME, &high_low(statistics.end.as_ns()));
    // isb_ifrecv counts before the filter, and the kernel tells us only what passed it: without a filter that
    // is the same number, with one it is not known.
    if !has_filter {
        option(buffer, isb::INTERFACE_RECEIVED, &received.to_le_bytes());
    }
    option(buffer, isb::FILTER_ACCEPTED, &received.to_le_bytes());
    if let Some(dropped) = dropped_by_kernel {
        option(buffer, isb::OS_DROPPED, &dropped.to_le_bytes());
    }
    option(buffer, isb::USER_DELIVERED, &written.saturating_add(dropped_by_us).to_le_bytes());
    end_of_options(buffer);
    end_block(buffer, start);
}

fn whole_file(statistics: &Statistics, is_shared: bool) -> String {
    let Statistics { attribution, events_lost, dropped_by_kernel, .. } = statistics;
    let mut text = counts_after(WHOLE_FILE, attribution);
    // Writing to a String cannot fail.
    let _ = write!(text, "; {EVENTS_LOST} {events_lost}");
    if is_shared {
        let _ = write!(text, "; {DROPPED_TOGETHER} {dropped_by_kernel}{SHARED}");
    }
    text
}

/// The body of a statistics block for an interface of which only what was written is known: how many packets, and the first and
/// the last time stamp.
pub(super) fn of_copy(id: [u8; 4], written: u64, (first, last): (u64, u64)) -> Vec<u8> {
    let mut body = id.to_vec();
    body.extend_from_slice(&high_low(last));
    text_option(&mut body, code::COMMENT, &format!("{THIS_INTERFACE}{WRITTEN} {written}"));
    option(&mut body, isb::START_TIME, &high_low(first));
    option(&mut body, isb::END_TIME, &high_low(last));
    body
}

/// The body of a statistics block, little-endian, in which the comment on the whole file is about these packets.
pub(super) fn with_attribution(body: &[u8], attribution: &AttributionCounts) -> Vec<u8> {
    let (head, options) = body.split_at(body.len().min(12));
    let mut anew = head.to_vec();
    let mut losses = String::new();
    for (option_code, value) in Options::new(options, false) {
        let text = std::str::from_utf8(value).unwrap_or_default();
        match text.strip_prefix(WHOLE_FILE) {
            // What was lost while it was recorded stays lost.
            Some(list) if option_code == code::COMMENT => {
                let lost = list.split_once(EVENTS_LOST).map(|(_, lost)| format!("; {EVENTS_LOST}{lost}"));
                losses = lost.unwrap_or_default();
            }
            _ => option(&mut anew, option_code, value),
        }
    }
    text_option(&mut anew, code::COMMENT, &(counts_after(WHOLE_FILE, attribution) + &losses));
    end_of_options(&mut anew);
    anew
}

/// The comment on packets that a copy lacks.
pub(super) fn filtered(kept: u64, left_out: u64) -> String {
    let partial = if left_out > 0 { PARTIAL } else { "" };
    format!("{FILTERED}{KEPT} {kept}; {LEFT_OUT} {left_out}{partial}")
}

fn counts_after(prefix: &str, attribution: &AttributionCounts) -> String {
    let mut text = format!("{prefix}{ATTRIBUTED} {}", attribution.attributed());
    for found in Found::ALL {
        let count = attribution.found(found);
        // Two ways that every recording with eBPF has, and those that this one had.
        if count > 0 || matches!(found, Found::Socket | Found::Listener) {
            // Writing to a String cannot fail.
            let _ = write!(text, "; {} {count}", found.name());
        }
    }
    for reason in Reason::ALL {
        let count = attribution.without(reason);
        if count > 0 {
            let _ = write!(text, "; {} {count}", reason.name());
        }
    }
    text
}

/// What one statistics block adds to the statistics of the file. `options` follow the block's time stamp;
/// `to_time` turns a time stamp of its interface into a time.
pub(super) fn read(
    options: Options<'_>,
    is_big_endian: bool,
    to_time: impl Fn(u64) -> RealTime,
    statistics: &mut Statistics,
) -> InterfaceCounts {
    let mut counts = InterfaceCounts::default();
    let (mut interface_received, mut accepted, mut delivered) = (None, None, None);
    let (mut has_written, mut filtered_out) = (false, 0_u64);
    for (option, value) in options {
        let number = || u64_of(value, is_big_endian);
        match option {
            isb::START_TIME => {
                let start = high_low_of(value, is_big_endian).map(&to_time);
                statistics.start = start.map_or(statistics.start, |start| match statistics.start.as_ns() {
                    0 => start,
                    _ => statistics.start.min(start),
                });
            }
            isb::END_TIME => {
                let end = high_low_of(value, is_big_endian).map(&to_time);
                statistics.end = statistics.end.max(end.unwrap_or_default());
            }
            isb::INTERFACE_RECEIVED => interface_received = number(),
            isb::FILTER_ACCEPTED => accepted = number(),
            isb::OS_DROPPED => counts.dropped_by_kernel = number(),
            isb::USER_DELIVERED => delivered = number(),
            code::COMMENT => {
                let Ok(text) = std::str::from_utf8(value) else { continue };
                has_written |= read_comment(text, &mut counts, statistics);
                filtered_out = read_filtered(text).saturating_add(filtered_out);
            }
            _ => {}
        }
    }
    // Each block says the same, and each copy of a copy adds a comment.
    statistics.filtered_out = statistics.filtered_out.max(filtered_out);
    // Other programs count in isb_ifrecv what passed the filter (dumpcap does), so it stands in.
    let received = accepted.or(interface_received);
    counts.received = received.or(delivered).unwrap_or(0);
    if !has_written {
        counts.written = delivered
            .unwrap_or_else(|| counts.received.saturating_sub(counts.dropped_by_kernel.unwrap_or(0)));
    }
    counts
}

/// Whether the comment told how many packets were written.
fn read_comment(text: &str, counts: &mut InterfaceCounts, statistics: &mut Statistics) -> bool {
    if let Some(list) = text.strip_prefix(THIS_INTERFACE) {
        let mut has_written = false;
        for (word, count) in pairs(list) {
            match word {
                WRITTEN => {
                    counts.written = count;
                    has_written = true;
                }
                DROPPED_BY_US => counts.dropped_by_us = count,
                _ => {}
            }
        }
        return has_written;
    }
    if let Some(list) = text.strip_prefix(WHOLE_FILE) {
        // Every block repeats it, so it replaces rather than adds.
        statistics.attribution = read_counts(list);
        for (word, count) in pairs(list) {
            match word {
                EVENTS_LOST => statistics.events_lost = count,
                DROPPED_TOGETHER => statistics.dropped_by_kernel = count,
                _ => {}
            }
        }
    }
    if let Some(list) = text.strip_prefix(NOT_SELECTED) {
        statistics.not_selected = read_counts(list);
    }
    false
}

/// How many packets a copy lacks, if the comment is about that.
fn read_filtered(text: &str) -> u64 {
    let list = text.strip_prefix(FILTERED).unwrap_or_default();
    pairs(list).find(|(word, _)| *word == LEFT_OUT).map_or(0, |(_, count)| count)
}

fn read_counts(list: &str) -> AttributionCounts {
    let mut counts = AttributionCounts::default();
    for (word, count) in pairs(list) {
        if let Some(found) = Found::ALL.into_iter().find(|found| found.name() == word) {
            counts.add_found(found, count);
        }
        if let Some(reason) = Reason::ALL.into_iter().find(|reason| reason.name() == word) {
            counts.add_without(reason, count);
        }
    }
    counts
}

/// `a 1; b c 2 (shared)` as ("a", 1), ("b c", 2).
fn pairs(list: &str) -> impl Iterator<Item = (&str, u64)> {
    list.split("; ").filter_map(|pair| {
        let (word, count) = pair.strip_suffix(SHARED).unwrap_or(pair).rsplit_once(' ')?;
        // The limit keeps sums of such counts within 64 bits, whatever a file says.
        Some((word, count.parse::<u64>().ok()?.min(1 << 48)))
    })
}

fn u64_of(value: &[u8], is_big_endian: bool) -> Option<u64> {
    let bytes = value.try_into().ok()?;
    Some(if is_big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
}

fn high_low_of(value: &[u8], is_big_endian: bool) -> Option<u64> {
    let number = u64_of(value, is_big_endian)?;
    // In little-endian sections the two halves stand upper half first, each little-endian.
    Some(if is_big_endian { number } else { number.rotate_left(32) })
}
