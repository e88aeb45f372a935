//! Where this machine's apt fetches Debian's packages from.

use std::process::Command;

use crate::process::must;

/// The keys of Debian's archive, from the package debian-archive-keyring.
pub const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The mirror that this machine fetches Debian's packages, or its security updates, from.
pub fn site(release: &str) -> String {
    let format = ["--format", "$(ORIGIN) $(RELEASE) $(SITE)", "Created-By: Packages"];
    let targets = must(Command::new("apt-get").arg("indextargets").args(format)).stdout;
    let is_security = |release: &str| release.ends_with("-security");
    let mut sites = targets.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (origin, of, site) = (words.next()?, words.next()?, words.next()?);
        (origin == "Debian" && is_security(of) == is_security(release)).then_some(site)
    });
    let site = sites.next();
    let site = site.unwrap_or_else(|| {
        panic!("this machine has no source of Debian's packages for {release}: {targets}")
    });
    site.to_string()
}
