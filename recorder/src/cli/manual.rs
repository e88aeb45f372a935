//! `recorder man` and `recorder completions`: made from the option table, so that they say what it says.

use std::io::{self, Write};

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use super::Cli;

/// The arguments of `recorder man`.
#[derive(Clone, Debug, clap::Args)]
pub struct ManArgs {
    /// The page of this command; without it, of recorder itself
    pub command: Option<String>,
}

/// The arguments of `recorder completions`.
#[derive(Clone, Debug, clap::Args)]
pub struct CompletionsArgs {
    /// For this shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// Writes a page of the manual, for man(1). Says so and exits with code 2 if there is no such command. A broken pipe comes
/// back as the error that it is.
pub fn man(args: &ManArgs, out: &mut dyn Write) -> io::Result<()> {
    let mut cli = Cli::command().disable_help_subcommand(true);
    cli.build();
    let Some(name) = &args.command else { return page(cli, out) };
    match cli.find_subcommand(name) {
        Some(command) => page(command.clone(), out),
        None => {
            cli.error(clap::error::ErrorKind::InvalidSubcommand, format!("no command is named {name}")).exit()
        }
    }
}

/// Writes the script that has a shell complete commands and options. A broken pipe comes back as the error that it is.
pub fn completions(args: &CompletionsArgs, out: &mut dyn Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "recorder", &mut script);
    out.write_all(&script)
}

fn page(command: clap::Command, out: &mut dyn Write) -> io::Result<()> {
    let has_commands = command.has_subcommands();
    let more = command.get_after_long_help().map(ToString::to_string).unwrap_or_default();
    let man = Man::new(command).source(concat!("recorder ", env!("CARGO_PKG_VERSION"))).manual("recorder");
    man.render_title(out)?;
    man.render_name_section(out)?;
    man.render_synopsis_section(out)?;
    man.render_description_section(out)?;
    man.render_options_section(out)?;
    if has_commands {
        man.render_subcommands_section(out)?;
    }
    sections(&more).to_writer(out)
}

/// What stands behind the options in `--help`: lines that are not indented are headings, the others stay as they are.
fn sections(text: &str) -> Roff {
    let mut roff = Roff::default();
    for line in text.lines() {
        match line.strip_suffix(':').filter(|heading| !heading.starts_with(' ')) {
            Some(heading) => {
                roff.control("fi", []);
                roff.control("SH", [heading.to_uppercase().as_str()]);
                roff.control("nf", []);
            }
            None => {
                roff.text([roman(line)]);
            }
        }
    }
    roff.control("fi", []);
    roff
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn page_of(command: Option<&str>) -> String {
        let mut out = Vec::new();
        man(&ManArgs { command: command.map(str::to_owned) }, &mut out).unwrap();
        String::from_utf8(out).unwrap().replace(r"\-", "-")
    }

    /// The commands of the table, each with its long options.
    fn table() -> Vec<(String, Vec<String>)> {
        let mut cli = Cli::command().disable_help_subcommand(true);
        cli.build();
        let options = |command: &clap::Command| {
            command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned).collect()
        };
        cli.get_subcommands().map(|command| (command.get_name().to_owned(), options(command))).collect()
    }

    #[test]
    fn the_manual_has_a_page_for_each_command_with_all_its_options() {
        let first = page_of(None);
        for (command, options) in table() {
            assert!(first.contains(&format!("recorder-{command}(1)")), "{command}\n{first}");
            let page = page_of(Some(&command));
            assert!(page.contains(&format!("recorder-{command}")), "{page}");
            for option in options {
                assert!(page.contains(&format!("--{option}")), "{command} --{option}\n{page}");
            }
        }
    }

    #[test]
    fn what_stands_behind_the_options_has_headings_of_its_own() {
        let page = page_of(Some("record"));
        assert!(page.contains("\n.SH \"EXIT STATUS\"\n.nf\n"), "{page}");
    }

    #[test]
    fn each_shell_completes_all_commands_and_options() {
        for shell in Shell::value_variants() {
            let mut out = Vec::new();
            completions(&CompletionsArgs { shell: *shell }, &mut out).unwrap();
            let script = String::from_utf8(out).unwrap();
            for (command, options) in table() {
                assert!(script.contains(&command), "{shell}: {command}");
                for option in options {
                    assert!(script.contains(&option), "{shell}: {command} --{option}");
                }
            }
        }
    }
}
