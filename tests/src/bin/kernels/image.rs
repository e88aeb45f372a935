//! What a machine boots into: busybox, the programs of the test with their shared libraries, and modules of the kernel.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::process::must;
use recorder_tests::recorder;

use crate::packages::{find, remake};

/// The first process of the guest.
const INIT: &str = include_str!("init");
/// The modules that are loaded there: for the second namespace, and for the sockets from before the start.
const MODULES: [&str; 4] = ["veth", "tcp_diag", "udp_diag", "raw_diag"];
/// What busybox does there.
const APPLETS: [&str; 11] =
    ["sh", "mount", "mkdir", "ln", "cat", "insmod", "stty", "tar", "gzip", "sync", "poweroff"];

/// Builds the image; gives its path.
pub(crate) fn build(root: &Path, folder: &Path) -> PathBuf {
    remake(folder);
    for name in ["bin", "modules", "out", "tmp", "proc", "sys", "dev", "run", "var"] {
        fs::create_dir(folder.join(name)).expect("cannot make a folder");
    }
    symlink("/run", folder.join("var/run")).expect("cannot make a link");
    add_busybox(folder);
    add_programs(folder);
    add_modules(root, folder);
    let init = folder.join("init");
    fs::write(&init, INIT).expect("cannot write /init");
    fs::set_permissions(&init, fs::Permissions::from_mode(0o755)).expect("cannot change a mode");
    let image = folder.with_extension("cpio");
    let pack = "find . | busybox cpio -o -H newc -R 0:0 >\"$1\"";
    must(Command::new("sh").args(["-c", pack, "sh"]).arg(&image).current_dir(folder));
    image
}

fn add_busybox(folder: &Path) {
    copy(&on_path("busybox"), &folder.join("bin/busybox"));
    for applet in APPLETS {
        symlink("busybox", folder.join("bin").join(applet)).expect("cannot make a link");
    }
}

/// The recorder, the programs that it records, this program, and ip(8).
fn add_programs(folder: &Path) {
    let own = std::env::current_exe().expect("this program has a path");
    let traffic = own.with_file_name("traffic");
    assert!(traffic.is_file(), "{} is not there; build it first", traffic.display());
    for program in [&PathBuf::from(recorder::binary()), &traffic, &own, &on_path("ip")] {
        let name = program.file_name().expect("a program has a name");
        // Without debugging information: the guest unpacks all of it into memory.
        must(Command::new("strip").arg("-o").arg(folder.join("bin").join(name)).arg(program));
        for library in libraries(program) {
            let relative = library.strip_prefix("/").expect("ldd tells absolute paths");
            let target = folder.join(relative);
            fs::create_dir_all(target.parent().expect("a library is in a folder"))
                .expect("cannot make a folder");
            copy(&library, &target);
        }
    }
}

/// The shared libraries of a program, the loader among them.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let text = must(Command::new("ldd").arg(program)).stdout;
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// The modules and what they need, numbered in the order in which they are to be loaded.
fn add_modules(root: &Path, folder: &Path) {
    let mut modules = Vec::new();
    MODULES.iter().for_each(|name| collect_modules(name, root, &mut modules));
    for (number, module) in modules.iter().enumerate() {
        let target = folder.join(format!("modules/{number:02}.ko"));
        match module.extension().and_then(|extension| extension.to_str()) {
            Some("ko") => copy(module, &target),
            Some("xz") => {
                let unpack = "xz -dc \"$1\" >\"$2\"";
                must(Command::new("sh").args(["-c", unpack, "sh"]).arg(module).arg(target));
            }
            _ => panic!("{}: packed in a way that is not known here", module.display()),
        }
    }
}

fn collect_modules(name: &str, root: &Path, modules: &mut Vec<PathBuf>) {
    let start = format!("{name}.ko");
    let module = find(root, &|file| file == start || file.starts_with(&format!("{start}.")));
    let module = module.unwrap_or_else(|| panic!("this kernel has no module {name}"));
    if modules.contains(&module) {
        return;
    }
    let needed = must(Command::new("modinfo").args(["-F", "depends"]).arg(&module)).stdout;
    for needed in needed.trim().split(',').filter(|needed| !needed.is_empty()) {
        collect_modules(needed, root, modules);
    }
    modules.push(module);
}

fn on_path(program: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file());
    found.unwrap_or_else(|| panic!("{program} is not on the path"))
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to)
        .unwrap_or_else(|error| panic!("cannot copy {} to {}: {error}", from.display(), to.display()));
}
