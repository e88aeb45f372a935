//! The architecture of docs/ARCHITECTURE.md, held by reading the sources; first that the reading sees what it must.

use std::fs;

use recorder_tests::rooms::{
    Source, broken_imports, broken_packages, broken_unsafe, ebpf_sources_hash, files, root, unknown_packages,
};

/// Where `unsafe` may stand, and why.
const UNSAFE: [&str; 10] = [
    "recorder/src/attribution/linux/ebpf/sys.rs", // fsopen, clocks, the words of the kernel side: read from bytes, mapped
    "recorder/src/pipeline/command.rs", // becoming the user who called sudo between fork and exec; kill
    "recorder/src/pipeline/helper.rs",  // fork, for the processes beside a recording
    "recorder/src/source/expression.rs", // bpf_filter, which the package does not give whole
    "recorder/src/source/linux/mapping.rs", // the mapped ring
    "recorder/src/source/linux/sys.rs", // AF_PACKET sockets, their options, netlink
    "recorder/tests/live_source.rs",    // unshare and raw sockets
    "recorder/tests/sandbox.rs",        // system calls that must be refused, made as they are
    "tests/src/bin/traffic/sys.rs",     // fork, null-address accept, AF_PACKET: what std has no word for
    "tests/src/sys.rs",                 // setns, wait4, kill, clocks
];

fn source(path: &str, text: &str) -> Source {
    Source { path: path.into(), text: text.into() }
}

fn rust(folder: &str) -> Vec<Source> {
    files(folder, |path| path.ends_with(".rs"))
}

fn assert_none(broken: &[String]) {
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

#[test]
fn imports_run_one_way() {
    let sources = rust("recorder/src");
    assert!(sources.len() > 3, "the sources are read");
    assert_none(&sources.iter().flat_map(broken_imports).collect::<Vec<_>>());
}

#[test]
fn an_outside_package_has_one_room() {
    assert_none(&rust("recorder/src").iter().flat_map(broken_packages).collect::<Vec<_>>());
    let manifest = fs::read_to_string(root().join("recorder/Cargo.toml")).unwrap();
    assert_none(&unknown_packages(&manifest));
}

#[test]
fn unsafe_stands_in_listed_files_only() {
    let folders = ["recorder/src", "recorder/tests", "shared/src", "tests/src", "tests/tests"];
    let sources: Vec<Source> = folders.into_iter().flat_map(rust).collect();
    assert_none(&broken_unsafe(&sources, &UNSAFE));
}

#[test]
fn the_committed_ebpf_object_belongs_to_its_sources() {
    let file = root().join("recorder/ebpf/recorder-ebpf.sources.sha256");
    let committed = fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    let sources = ebpf_sources_hash();
    assert_eq!(committed.trim(), sources, "the eBPF sources changed and the object did not: run `make ebpf`");
}

#[test]
fn the_script_hashes_the_ebpf_sources_as_the_test_does() {
    let script = root().join("recorder-ebpf/hash-sources");
    let output = std::process::Command::new("sh").arg(script).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), ebpf_sources_hash());
}

// --- the reading itself

#[test]
fn an_import_against_the_direction_is_seen_however_it_is_written() {
    for (path, text) in [
        ("recorder/src/model/mod.rs", "use crate::decode::flow;"),
        ("recorder/src/model/mod.rs", "fn f() { crate::source::linux::open() }"),
        ("recorder/src/source/mod.rs", "use crate::{\n    model::Packet,\n    pcapng::{Writer, Reader},\n};"),
        ("recorder/src/source/linux/ring.rs", "use super::super::super::attribution::Join;"),
        ("recorder/src/attribution/table.rs", "use super::super::source;"),
        ("recorder/src/decode/mod.rs", "use super::pipeline::Stage;"),
        ("recorder/src/pipeline/mod.rs", "use crate::cli;"),
        ("recorder/src/output.rs", "use crate::pcapng::Writer;"),
        ("recorder/src/utilities/mod.rs", "fn f() {}"),
    ] {
        assert_eq!(broken_imports(&source(path, text)).len(), 1, "{path}: {text}");
    }
}

#[test]
fn an_import_along_the_direction_is_let_through() {
    for (path, text) in [
        ("recorder/src/model/mod.rs", "use super::RealTime; // not crate::cli"),
        ("recorder/src/source/linux/ring.rs", "use super::super::Source; use crate::model::Packet;"),
        ("recorder/src/source/mod.rs", "const TEXT: &str = \"crate::cli::run\";"),
        ("recorder/src/pcapng/reader.rs", "use crate::{decode::Flow, model::{self, Packet}};"),
        ("recorder/src/cli/mod.rs", "use crate::{pipeline, model};"),
        ("recorder/src/main.rs", "use recorder::cli;"),
        ("recorder/src/lib.rs", "pub use crate::cli;"),
    ] {
        assert_none(&broken_imports(&source(path, text)));
    }
}

#[test]
fn a_package_outside_of_its_room_is_seen() {
    for (path, text) in [
        ("recorder/src/model/flow.rs", "use libc::c_int;"),
        ("recorder/src/source/file.rs", "let x = libc::getpid();"),
        ("recorder/src/pcapng/mod.rs", "use pcap::Capture;"),
        ("recorder/src/decode/mod.rs", "use serde_json as json;"),
        ("recorder/src/decode/mod.rs", "use aya;"),
        ("recorder/src/output/mod.rs", "fn f() { ::clap::parse() }"),
    ] {
        assert_eq!(broken_packages(&source(path, text)).len(), 1, "{path}: {text}");
    }
    for (path, text) in [
        ("recorder/src/source/linux/ring.rs", "use libc::c_int;"),
        ("recorder/src/source/linux.rs", "use libc::c_int;"),
        ("recorder/src/pcapng/mod.rs", "use serde_json::Value; use crate::source::pcap::X;"),
        ("recorder/src/model/flow.rs", "// libc::c_int\nlet mylibc::x = 1;"),
        ("recorder/src/main.rs", "use clap::Parser;"),
    ] {
        assert_none(&broken_packages(&source(path, text)));
    }
}

#[test]
fn a_dependency_without_a_room_is_seen() {
    let manifest = "[package]\nname = \"x\"\n[dependencies]\nserde-json = \"1\"\nleft-pad = \"1\"\n\
                    [dev-dependencies]\ninsta = \"1\"\n[target.'cfg(unix)'.dependencies]\naya = \"1\"\nmio.workspace = true\n";
    let unknown = unknown_packages(manifest);
    assert_eq!(unknown.len(), 2, "{unknown:?}");
    assert!(unknown[0].contains("left_pad") && unknown[1].contains("mio"), "{unknown:?}");
}

#[test]
fn unsafe_outside_of_the_list_is_seen_and_so_is_a_list_that_is_too_long() {
    let sources = [
        source("a.rs", "fn f() { unsafe { g() } }"),
        source("b.rs", "// unsafe\n#![deny(unsafe_op_in_unsafe_fn)]\nconst T: &str = \"unsafe\";"),
    ];
    assert_none(&broken_unsafe(&sources, &["a.rs"]));
    assert_eq!(broken_unsafe(&sources, &[]).len(), 1);
    assert_eq!(broken_unsafe(&sources, &["a.rs", "b.rs"]).len(), 1);
}
