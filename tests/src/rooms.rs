//! Holds the architecture: imports run one way, one room per outside package, `unsafe` only in listed files.
//!
//! Reads the sources as text: comments and string literals are blanked, then paths (`crate::room`, `super::room`,
//! `package::`) are looked for. Simple scanning is enough for code that rustfmt has laid out.

use std::fs;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// Which rooms a room may import from; itself always. `model` stands on `shared`, an outside package here.
const MAY_IMPORT: [(&str, &[&str]); 11] = [
    ("model", &[]),
    ("decode", &["model"]),
    ("source", &["decode", "model"]),
    ("attribution", &["decode", "model"]),
    ("pcapng", &["decode", "model"]),
    ("output", &["decode", "model"]),
    ("sandbox", &["decode", "model"]),
    ("selection", &["model"]),
    ("pipeline", &["source", "attribution", "pcapng", "output", "sandbox", "selection", "decode", "model"]),
    ("replay", &["source", "pcapng", "output", "decode", "model"]),
    (
        "cli",
        &[
            "pipeline",
            "replay",
            "source",
            "attribution",
            "pcapng",
            "output",
            "sandbox",
            "selection",
            "decode",
            "model",
        ],
    ),
];

/// Where an outside package may be used: a room, or a folder in one. A package that is not here is not used at all.
const PACKAGES: &[(&str, &[&str])] = &[
    ("recorder_shared", &["model", "attribution"]), // the words of the kernel side are heard in attribution
    ("etherparse", &["decode"]),
    ("simple_dns", &["decode"]), // the names in DNS answers
    ("libc", &["source/linux", "attribution/linux", "sandbox", "pipeline"]), // system calls; pipeline: clocks
    // the same, safe where it can be; output: FIFOs
    ("rustix", &["source/linux", "attribution/linux", "sandbox", "pipeline", "output"]),
    ("pcap", &["source"]), // macOS, files, the filter compiler
    ("aya", &["attribution/linux"]),
    ("btf_rs", &["attribution/linux"]), // offsets that the kernel does not promise
    ("procfs", &["attribution/linux"]),
    ("netlink_sys", &["attribution/linux"]), // the kernel's connection tracking
    ("netlink_packet_core", &["attribution/linux"]), // the same
    ("netlink_packet_sock_diag", &["attribution/linux"]), // sockets
    ("netlink_packet_netfilter", &["attribution/linux"]), // the same
    ("foldhash", &["attribution"]),          // a hash that a sender of packets cannot aim at
    ("globset", &["selection"]),             // patterns
    ("zstd", &["output"]),
    ("flate2", &["output"]), // reading what others compressed
    ("landlock", &["sandbox"]),
    ("caps", &["sandbox"]),
    ("seccompiler", &["sandbox"]),
    ("signal_hook", &["pipeline"]),
    ("clap", &["cli"]),
    ("clap_complete", &["cli"]),
    ("clap_mangen", &["cli"]),
    ("chrono", &["cli", "output"]), // output: the time in the names of files
    ("indicatif", &["cli"]),
    ("terminal_size", &["cli"]),   // the width of a table
    ("nix", &["cli"]),             // the names of users
    ("serde", &["cli", "pcapng"]), // JSON on the screen, and in process records
    ("serde_json", &["cli", "pcapng"]),
];

/// Packages that every room may use.
const EVERYWHERE: [&str; 1] = ["thiserror"];

/// One source file: its path from the root of the repository, and its text.
pub struct Source {
    /// `recorder/src/decode/mod.rs`
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// The root of the repository.
pub fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("tests/ is in the repository").to_path_buf()
}

/// All files below a folder of the repository that `wanted` chooses by path, in the order of their paths.
pub fn files(folder: &str, wanted: impl Fn(&str) -> bool) -> Vec<Source> {
    let mut paths = Vec::new();
    walk(&root().join(folder), &mut paths);
    let root = root();
    let relative = |path: &PathBuf| path.strip_prefix(&root).ok().and_then(Path::to_str).map(str::to_string);
    let mut paths: Vec<String> = paths.iter().filter_map(relative).filter(|path| wanted(path)).collect();
    paths.sort();
    let read = |path: String| {
        let text = fs::read_to_string(root.join(&path))
            .unwrap_or_else(|error| panic!("cannot read {path}: {error}"));
        Source { path, text }
    };
    paths.into_iter().map(read).collect()
}

fn walk(folder: &Path, paths: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        match path.is_dir() {
            true => walk(&path, paths),
            false => paths.push(path),
        }
    }
}

/// What is wrong with the imports of a file of recorder/src; empty if nothing.
pub fn broken_imports(source: &Source) -> Vec<String> {
    let Some(room) = room_of(&source.path) else { return Vec::new() };
    let Some((_, allowed)) = MAY_IMPORT.iter().find(|(name, _)| *name == room) else {
        return vec![format!(
            "{}: there is no room `{room}`; rooms are listed in tests/src/rooms.rs",
            source.path
        )];
    };
    let imported = rooms_imported(&code(&source.text), depth(&source.path));
    let broken =
        imported.into_iter().filter(|(other, _)| other != room && !allowed.contains(&other.as_str()));
    broken.map(|(other, line)| format!("{}:{line}: `{room}` imports from `{other}`", source.path)).collect()
}

/// What is wrong with the use of outside packages in a file of recorder/src; empty if nothing.
pub fn broken_packages(source: &Source) -> Vec<String> {
    let inside = source.path.strip_prefix("recorder/src/").unwrap_or(&source.path);
    let inside = if inside == "main.rs" { "cli/main.rs" } else { inside };
    let code = code(&source.text);
    let mut broken = Vec::new();
    for &(package, homes) in PACKAGES {
        let at_home =
            homes.iter().any(|home| inside.starts_with(&format!("{home}/")) || is_file_of(inside, home));
        let Some(line) = line_of_package(&code, package) else { continue };
        if !at_home {
            broken.push(format!("{}:{line}: `{package}` may be used in {homes:?} only", source.path));
        }
    }
    broken
}

fn is_file_of(inside: &str, home: &str) -> bool {
    inside.strip_suffix(".rs") == Some(home)
}

/// Dependencies in recorder/Cargo.toml that the table does not know.
pub fn unknown_packages(manifest: &str) -> Vec<String> {
    let mut in_dependencies = false;
    let mut unknown = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.trim_end_matches(']').ends_with("dependencies") && !line.contains("dev-");
            continue;
        }
        let name = line.split([' ', '=', '.']).next().unwrap_or_default().replace('-', "_");
        let known =
            PACKAGES.iter().any(|(package, _)| *package == name) || EVERYWHERE.contains(&name.as_str());
        if in_dependencies && !name.is_empty() && !name.starts_with('#') && !known {
            unknown.push(format!(
                "recorder/Cargo.toml: `{name}` has no room; give it one in tests/src/rooms.rs"
            ));
        }
    }
    unknown
}

/// Where `unsafe` stands and is not listed, and which listed files have none.
pub fn broken_unsafe(sources: &[Source], listed: &[&str]) -> Vec<String> {
    let has_unsafe = |source: &&Source| words(&code(&source.text)).any(|(word, _)| word == "unsafe");
    let with: Vec<&str> = sources.iter().filter(has_unsafe).map(|source| source.path.as_str()).collect();
    let unlisted = with.iter().filter(|path| !listed.contains(path));
    let unlisted = unlisted.map(|path| format!("{path}: `unsafe`, and the file is not listed"));
    let idle = listed.iter().filter(|path| !with.contains(path));
    let idle = idle.map(|path| format!("{path}: listed for `unsafe`, and has none"));
    unlisted.chain(idle).collect()
}

/// The room of a file; nothing for lib.rs, which only names the rooms.
fn room_of(path: &str) -> Option<&str> {
    let inside = path.strip_prefix("recorder/src/")?;
    match inside {
        "lib.rs" => None,
        "main.rs" => Some("cli"),
        inside => inside.split('/').next().map(|first| first.trim_end_matches(".rs")),
    }
}

/// How many `super::` lead from a file of recorder/src to the crate's root.
fn depth(path: &str) -> usize {
    let inside = path.strip_prefix("recorder/src/").unwrap_or(path);
    let parts = inside.split('/').count();
    if inside.ends_with("mod.rs") { parts - 1 } else { parts }
}

/// The rooms that a text imports, with the line.
fn rooms_imported(code: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    for root in ["crate::", "recorder::", &up] {
        for (at, _) in code.match_indices(root) {
            if root.is_empty() || continues_a_path(code, at) && root != up {
                continue;
            }
            let line = 1 + code[..at].matches('\n').count();
            let names = names_after(&code[at + root.len()..]);
            found.extend(names.into_iter().filter(|name| is_room(name)).map(|name| (name, line)));
        }
    }
    found
}

fn is_room(name: &str) -> bool {
    MAY_IMPORT.iter().any(|(room, _)| *room == name)
}

/// Whether what stands at `at` goes on with a word or a path that began before.
fn continues_a_path(code: &str, at: usize) -> bool {
    code[..at].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':')
}

/// The first name of a path, or the first names of all paths in a group `{a::b, c}`.
fn names_after(rest: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = rest.strip_prefix('{') else { return vec![name(rest)] };
    let mut names = Vec::new();
    let (mut level, mut expected) = (0, true);
    for (at, letter) in group.char_indices() {
        match letter {
            '}' if level == 0 => break,
            '{' => level += 1,
            '}' => level -= 1,
            ',' if level == 0 => expected = true,
            letter if expected && !letter.is_whitespace() => {
                names.push(name(&group[at..]));
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// The first line on which a package begins a path.
fn line_of_package(code: &str, package: &str) -> Option<usize> {
    let begins = |at: usize, length: usize| {
        let after = code[at + length..].trim_start_matches(' ');
        let imported = code[..at].ends_with("use ") && after.starts_with([';', 'a']);
        !continues_a_path(code, at) && (code[at + length..].starts_with("::") || imported)
            || code[..at].ends_with(" ::") && code[at + length..].starts_with("::")
    };
    let (at, _) = code.match_indices(package).find(|(at, found)| begins(*at, found.len()))?;
    Some(1 + code[..at].matches('\n').count())
}

fn words(code: &str) -> impl Iterator<Item = (&str, usize)> {
    let of_line = |line: &str| line.trim().is_empty();
    let lines = code.lines().enumerate().filter(move |(_, line)| !of_line(line));
    lines.flat_map(|(number, line)| {
        line.split(|c: char| !c.is_alphanumeric() && c != '_').map(move |word| (word, number + 1))
    })
}

/// The text with comments and string literals blanked; line numbers stay.
fn code(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(letter) = rest.chars().next() {
        let blank = blank_length(rest);
        let taken = blank.unwrap_or(letter.len_utf8());
        match blank {
            Some(length) => code.extend(rest[..length].chars().map(|c| if c == '\n' { '\n' } else { ' ' })),
            None => code.push(letter),
        }
        rest = &rest[taken..];
    }
    code
}

/// How long the comment, string or character literal is that begins here.
fn blank_length(rest: &str) -> Option<usize> {
    if rest.starts_with("//") {
        return Some(rest.find('\n').unwrap_or(rest.len()));
    }
    if rest.starts_with("/*") {
        return Some(rest.find("*/").map_or(rest.len(), |end| end + 2));
    }
    if rest.starts_with("r#\"") {
        return Some(rest.find("\"#").map_or(rest.len(), |end| end + 2));
    }
    for quote in ["'\"'", "'\\''", "'\\\"'"] {
        if rest.starts_with(quote) {
            return Some(quote.len());
        }
    }
    rest.starts_with('"').then(|| string_length(rest))
}

fn string_length(rest: &str) -> usize {
    let mut escaped = false;
    for (at, letter) in rest.char_indices().skip(1) {
        match letter {
            '"' if !escaped => return at + 1,
            '\\' => escaped = !escaped,
            _ => escaped = false,
        }
    }
    rest.len()
}

/// The hash of the sources that the committed eBPF object is made of; recorder-ebpf/hash-sources computes the same.
///
/// For each file, in the byte order of its path from the repository's root: its SHA-256 in hex, two spaces, the path,
/// a newline. The SHA-256 of that text, in hex.
pub fn ebpf_sources_hash() -> String {
    let is_source = |path: &str| {
        let fixed =
            ["recorder-ebpf/.cargo/config.toml", "recorder-ebpf/Cargo.lock", "recorder-ebpf/Cargo.toml"];
        path.starts_with("recorder-ebpf/src/") || path.starts_with("shared/src/") || fixed.contains(&path)
    };
    let not_built = |path: &str| !path.starts_with("recorder-ebpf/target/");
    let mut sources = files("recorder-ebpf", |path| not_built(path) && is_source(path));
    sources.extend(files("shared", is_source));
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    let list: String =
        sources.iter().map(|source| format!("{}  {}\n", sha256(&source.text), source.path)).collect();
    sha256(&list)
}

fn sha256(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}
