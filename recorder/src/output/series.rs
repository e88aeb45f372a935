//! The names of a recording in several files, as dumpcap makes them, and which of the files are kept.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::num::NonZeroU32;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Local};

/// dumpcap's numbers have five digits, and go on with 00000 after 99999.
const NUMBERS: u64 = 100_000;

/// Files one after the other: `NAME_00001_YYYYmmddHHMMSS.SUFFIX`, in local time.
#[derive(Debug)]
pub struct Series {
    folder: PathBuf,
    name: OsString,
    suffix: OsString,
    /// How many names were given.
    count: u64,
    /// How many files are kept.
    keep: Option<NonZeroU32>,
    /// The files that are there, the oldest first.
    files: VecDeque<PathBuf>,
}

impl Series {
    /// Begins a series with the names made from `path`. With `keep` only so many files are to be kept, the current one included.
    pub fn new(path: &Path, keep: Option<NonZeroU32>) -> Self {
        let (name, suffix) = split(path.file_name().unwrap_or_default());
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        Self { folder, name, suffix, count: 0, keep, files: VecDeque::new() }
    }

    /// The name of the next file, which begins now.
    pub fn next_path(&self) -> PathBuf {
        self.path_at(Local::now())
    }

    fn path_at(&self, time: DateTime<Local>) -> PathBuf {
        let number = (self.count + 1) % NUMBERS;
        let mut name = self.name.clone();
        name.push(format!("_{number:05}_{}", time.format("%Y%m%d%H%M%S")));
        name.push(&self.suffix);
        self.folder.join(name)
    }

    /// Notes that the next file has been created. Gives the one that is to be removed for it, if there is one.
    pub fn created(&mut self, path: PathBuf) -> Option<PathBuf> {
        self.count += 1;
        self.files.push_back(path);
        let keep = self.keep?.get() as usize;
        if self.files.len() > keep { self.files.pop_front() } else { None }
    }

    /// The oldest file, which is to be removed before its time; none if all are kept, or only the newest is there.
    pub fn give_up_oldest(&mut self) -> Option<PathBuf> {
        self.keep.filter(|_| self.files.len() > 1).and_then(|_| self.files.pop_front())
    }

    /// How many files have been created.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The files that are kept, the oldest first.
    pub fn into_files(self) -> Vec<PathBuf> {
        self.files.into()
    }
}

/// The name of one of several files that are made from `path`: `NAME_LABEL.SUFFIX`.
pub fn beside(path: &Path, label: &str) -> PathBuf {
    let (mut name, suffix) = split(path.file_name().unwrap_or_default());
    name.push(format!("_{label}"));
    name.push(suffix);
    path.parent().unwrap_or(Path::new("")).join(name)
}

/// `x.pcapng` as `x` and `.pcapng`; `x.pcapng.zst` as `x` and `.pcapng.zst`.
fn split(name: &OsStr) -> (OsString, OsString) {
    let bytes = name.as_bytes();
    let inner = bytes.strip_suffix(b".zst").unwrap_or(bytes);
    let at = inner.iter().rposition(|byte| *byte == b'.').unwrap_or(inner.len());
    let part = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    (part(&bytes[..at]), part(&bytes[at..]))
}

#[cfg(test)]
mod tests {
    use chrono::TimeZone;

    use super::*;

    fn at(path: &str, count: u64) -> String {
        let time = Local.with_ymd_and_hms(2026, 11, 21, 8, 5, 9).unwrap();
        let series = Series { count, ..Series::new(Path::new(path), None) };
        series.path_at(time).to_str().unwrap().to_owned()
    }

    #[test]
    fn names_are_made_as_dumpcap_makes_them() {
        assert_eq!(at("/tmp/a.pcapng", 0), "/tmp/a_00001_20261121080509.pcapng");
        assert_eq!(at("a.b.pcapng", 41), "a.b_00042_20261121080509.pcapng");
        assert_eq!(at("dir.d/a", 0), "dir.d/a_00001_20261121080509");
        assert_eq!(at("a", 99_999), "a_00000_20261121080509");
    }

    #[test]
    fn both_parts_of_a_compressed_suffix_stay() {
        assert_eq!(at("a.pcapng.zst", 0), "a_00001_20261121080509.pcapng.zst");
        assert_eq!(at("a.zst", 0), "a_00001_20261121080509.zst");
    }

    #[test]
    fn of_a_ring_the_oldest_goes_when_a_new_one_is_there() {
        let mut series = Series::new(Path::new("a"), NonZeroU32::new(2));
        assert_eq!(series.created("1".into()), None);
        assert_eq!(series.created("2".into()), None);
        assert_eq!(series.created("3".into()), Some("1".into()));
        assert_eq!(series.count(), 3);
        assert_eq!(series.into_files(), [PathBuf::from("2"), PathBuf::from("3")]);
    }

    #[test]
    fn the_newest_file_of_a_ring_is_not_given_up_and_none_where_all_are_kept() {
        for (keep, given_up) in [(NonZeroU32::new(5), Some(PathBuf::from("1"))), (None, None)] {
            let mut series = Series::new(Path::new("a"), keep);
            series.created("1".into());
            assert_eq!(series.give_up_oldest(), None);
            series.created("2".into());
            assert_eq!(series.give_up_oldest(), given_up);
            assert_eq!(series.give_up_oldest(), None);
        }
    }
}
