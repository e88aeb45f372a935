//! Debian's kernel packages: fetched by the machine's own apt from the mirror that it uses, through lists and a cache of our
//! own, so that nothing of the machine's apt changes. Signatures are checked as always.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use recorder_tests::apt;
use recorder_tests::lab::say;
use recorder_tests::process::must;

use crate::Kernel;

/// The package that stands for the newest cloud kernel of a release.
const NEWEST: &str = "linux-image-cloud-amd64";

/// The kernel's files. What was fetched before is used again; deleting the folder has it fetched anew.
pub(crate) fn unpacked(kernel: &Kernel, folder: &Path) -> PathBuf {
    let root = folder.join("root");
    if root.is_dir() {
        return root;
    }
    let apt = Apt::new(kernel, &folder.join("apt"));
    apt.get(&["update"]);
    let packages = apt.kernel_packages();
    say(&format!("kernels: {}: fetching {}", kernel.name, packages.join(", ")));
    let fetched = folder.join("packages");
    remake(&fetched);
    apt.download(&packages, &fetched);
    // Under another name until it is whole.
    let partly = folder.join("root.partly");
    remake(&partly);
    for package in files(&fetched) {
        must(Command::new("dpkg").arg("-x").arg(package).arg(&partly));
    }
    fs::rename(&partly, &root).expect("cannot rename a folder");
    root
}

/// The kernel itself: in /boot, or (since 7.0) beside its modules.
pub(crate) fn vmlinuz(root: &Path) -> PathBuf {
    let is_it = |name: &str| name.starts_with("vmlinuz");
    find(root, &is_it).unwrap_or_else(|| panic!("there is no kernel in {}", root.display()))
}

/// A file below a folder, by its name.
pub(crate) fn find(folder: &Path, is_it: &dyn Fn(&str) -> bool) -> Option<PathBuf> {
    files(folder).into_iter().find_map(|path| match path.is_dir() && !path.is_symlink() {
        true => find(&path, is_it),
        false => path.file_name().and_then(|name| name.to_str()).is_some_and(is_it).then_some(path),
    })
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder);
    let entries = entries.unwrap_or_else(|error| panic!("cannot read {}: {error}", folder.display()));
    entries.flatten().map(|entry| entry.path()).collect()
}

/// An empty folder.
pub(crate) fn remake(folder: &Path) {
    // It may not be there.
    let _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder).unwrap_or_else(|error| panic!("cannot make {}: {error}", folder.display()));
}

/// The machine's apt, with sources, lists and a cache of our own.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(kernel: &Kernel, folder: &Path) -> Self {
        for part in ["lists/partial", "cache/archives/partial"] {
            remake(&folder.join(part));
        }
        let (sources, status) = (folder.join("sources.list"), folder.join("status"));
        let (keyring, release) = (apt::KEYRING, kernel.release);
        let line = format!("deb [arch=amd64 signed-by={keyring}] {} {release} main\n", apt::site(release));
        fs::write(&sources, line).expect("cannot write the list of sources");
        // Nothing is installed here.
        fs::write(&status, "").expect("cannot write the list of what is installed");
        let option = |name: &str, path: &Path| format!("-o{name}={}", path.display());
        let options = vec![
            option("Dir::Etc::SourceList", &sources),
            "-oDir::Etc::SourceParts=-".into(),
            option("Dir::State", folder),
            option("Dir::State::Lists", &folder.join("lists")),
            option("Dir::State::Status", &status),
            option("Dir::Cache", &folder.join("cache")),
            "-oAPT::Architecture=amd64".into(),
            "-oAPT::Sandbox::User=root".into(),
            "-oAcquire::Languages=none".into(),
        ];
        Self { options }
    }

    fn get(&self, arguments: &[&str]) {
        must(Command::new("apt-get").arg("-q").args(&self.options).args(arguments));
    }

    fn download(&self, packages: &[String], folder: &Path) {
        let mut command = Command::new("apt-get");
        must(command.arg("-q").args(&self.options).arg("download").args(packages).current_dir(folder));
    }

    /// The packages that hold the newest kernel and its modules: one until 6.x, two since.
    fn kernel_packages(&self) -> Vec<String> {
        let image = self.dependencies(NEWEST).into_iter().find(|name| name.starts_with("linux-image-"));
        let image = image.unwrap_or_else(|| panic!("{NEWEST} stands for no kernel"));
        let mut packages = self.dependencies(&image);
        let parts = ["linux-binary-", "linux-modules-"];
        packages.retain(|name| parts.iter().any(|part| name.starts_with(part)));
        if packages.is_empty() { vec![image] } else { packages }
    }

    fn dependencies(&self, package: &str) -> Vec<String> {
        let text = must(Command::new("apt-cache").args(&self.options).args(["depends", package])).stdout;
        let names = text.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        names.map(str::to_string).collect()
    }
}
