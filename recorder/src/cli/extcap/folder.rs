//! `recorder extcap`: a link to this program in the folders in which Wireshark looks for programs that capture.
//!
//! A link and no copy: a copy has no file capabilities, and stays behind when the program is replaced.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

/// The name of the link. Wireshark does not show it.
const NAME: &str = "recorder";

/// The arguments of `recorder extcap`.
#[derive(Debug, Args)]
pub struct FolderArgs {
    /// What to do.
    #[command(subcommand)]
    pub action: Action,
}

/// What to do with the link.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Have Wireshark offer each interface a second time, with processes
    Install(Place),
    /// Undo `install`
    Uninstall(Place),
}

/// Where the link is.
#[derive(Debug, Args)]
pub struct Place {
    /// The extcap folder; `tshark -G folders` tells those of a Wireshark [default: the two in which Wireshark looks for this user]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// Why the link cannot be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no home directory to find the folder in.
    #[error("cannot find Wireshark's folder: HOME is not set\n  name the folder with --dir")]
    Homeless,
    /// Something stands in the way.
    #[error("cannot {what} {}: it is no link\n  nobody but you knows what it is: move it away", path.display())]
    NoLink {
        /// What was being done.
        what: &'static str,
        /// What is there.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot {what} {}: {source}\n  choose a folder that you may write to with --dir", path.display())]
    Refused {
        /// What was being done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What was done cannot be told.
    #[error("cannot write the result: {0}")]
    Write(#[from] io::Error),
}

/// Makes or removes the link, and tells where.
///
/// # Errors
/// If a folder cannot be written to, or something else than a link stands there. Nothing but links is ever replaced or removed.
pub fn run(args: &FolderArgs, out: &mut dyn Write) -> Result<(), Error> {
    match &args.action {
        Action::Install(place) => {
            let program = std::env::current_exe().map_err(|source| Error::Refused {
                what: "find",
                path: NAME.into(),
                source,
            })?;
            for folder in folders(place)? {
                let link = install(&folder, &program)?;
                writeln!(out, "{} -> {}", link.display(), program.display())?;
            }
            writeln!(
                out,
                "Wireshark shows the interfaces when it is started anew, or with Capture > Refresh Interfaces (F5)"
            )?;
        }
        Action::Uninstall(place) => {
            for folder in folders(place)? {
                if let Some(link) = uninstall(&folder)? {
                    writeln!(out, "removed {}", link.display())?;
                }
            }
        }
    }
    Ok(())
}

/// The folder that was named, or those of this user. Wireshark looks in the first from 4.2 on, in the other up to 4.0.
fn folders(place: &Place) -> Result<Vec<PathBuf>, Error> {
    if let Some(folder) = &place.dir {
        return Ok(vec![folder.clone()]);
    }
    let path =
        |variable: &str| std::env::var_os(variable).filter(|value| !value.is_empty()).map(PathBuf::from);
    let home = path("HOME").ok_or(Error::Homeless)?;
    let settings = path("XDG_CONFIG_HOME").unwrap_or_else(|| home.join(".config"));
    Ok(vec![home.join(".local/lib/wireshark/extcap"), settings.join("wireshark/extcap")])
}

fn install(folder: &Path, program: &Path) -> Result<PathBuf, Error> {
    let refused = |what, path: &Path, source| Error::Refused { what, path: path.to_owned(), source };
    fs::create_dir_all(folder).map_err(|source| refused("make", folder, source))?;
    uninstall(folder)?;
    let link = folder.join(NAME);
    symlink(program, &link).map_err(|source| refused("make", &link, source))?;
    Ok(link)
}

/// The link that was removed; none if none was there.
fn uninstall(folder: &Path) -> Result<Option<PathBuf>, Error> {
    let link = folder.join(NAME);
    let refused = |source| Error::Refused { what: "remove", path: link.clone(), source };
    match fs::symlink_metadata(&link) {
        Ok(there) if !there.is_symlink() => return Err(Error::NoLink { what: "remove", path: link }),
        Ok(_) => fs::remove_file(&link).map_err(refused)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(refused(error)),
    }
    Ok(Some(link))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_made_replaced_and_removed() {
        let home = tempfile::tempdir().unwrap();
        let folder = home.path().join("a/b");
        let link = install(&folder, Path::new("/first")).unwrap();
        assert_eq!(install(&folder, Path::new("/second")).unwrap(), link);
        assert_eq!(fs::read_link(&link).unwrap(), Path::new("/second"));
        assert_eq!(uninstall(&folder).unwrap(), Some(link));
        assert_eq!(uninstall(&folder).unwrap(), None);
        assert_eq!(uninstall(&home.path().join("not there")).unwrap(), None);
    }

    #[test]
    fn what_is_no_link_stays() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NAME);
        fs::write(&file, "somebody's").unwrap();
        assert!(matches!(install(folder.path(), Path::new("/x")), Err(Error::NoLink { .. })));
        assert!(matches!(uninstall(folder.path()), Err(Error::NoLink { .. })));
        assert_eq!(fs::read_to_string(file).unwrap(), "somebody's");
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let error = install(&file.join("extcap"), Path::new("/x")).unwrap_err().to_string();
        assert!(error.starts_with("cannot make ") && error.contains("--dir"), "{error}");
    }
}
