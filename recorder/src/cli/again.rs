//! `recorder annotate --from-events FILE -w OUT`: the owners of packets found again by the events that were kept with them.

use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

use super::filter::{BUFFER, create, refuse_to_replace};
use super::{Error, ignore_broken_pipe, open, text};
use crate::output::Output;
use crate::pcapng::Annotate;
use crate::pipeline::{Again, AgainError, AttributedAgain};

/// Attributes the packets of `file` again and writes them to `copy`, annotated as they were if nothing else is asked for; says on
/// standard error how many have other owners now.
///
/// # Errors
/// If there are no events in the file, or `copy` cannot be created: then there is none. If the file cannot be read to its end
/// (everything before that is in the copy), or the copy not be written.
pub fn run(file: &Path, copy: &Path, force: bool, annotate: Option<Annotate>) -> Result<ExitCode, Error> {
    let again =
        Again::new(open(file)?).map_err(|source| Error::NotAgain { path: file.to_owned(), source })?;
    let partly = |source| Error::PartlyAgain { path: file.to_owned(), source };
    refuse_to_replace(file, copy)?;
    let output = create(copy, force)?;
    let path = output.path().to_owned();
    let done = again.write(BufWriter::with_capacity(BUFFER, output), annotate).and_then(|done| {
        let AttributedAgain { packets, attributed, changed, failure, out } = done;
        let finished = out.into_inner().map_err(io::IntoInnerError::into_error).and_then(Output::finish);
        finished.map_err(AgainError::Write)?;
        Ok((packets, attributed, changed, failure))
    });
    match done {
        Ok((packets, attributed, changed, failure)) => {
            let name = path.to_string_lossy();
            // Nobody can be told that standard error is closed.
            let _ = writeln!(
                io::stderr(),
                "{packets} packets in {}, {attributed} with an owner; {changed} have other owners than in {}",
                text::safe(&name),
                text::safe(&file.to_string_lossy()),
            );
            failure.map_or(Ok(ExitCode::SUCCESS), |source| Err(partly(source)))
        }
        // Whoever read the copy has seen enough.
        Err(AgainError::Write(error)) => ignore_broken_pipe(Err(error)).map(|()| ExitCode::SUCCESS),
        Err(source) => Err(partly(source)),
    }
}
