//! The simulator over many more seeds than the test run takes.
use crate::{Failure, process, workspace};

/// `soak [--seeds N] [--from M]`.
pub fn command(words: &[&str]) -> Result<(), Failure> {
    let (mut seeds, mut from) = ("20000".to_owned(), "1000000".to_owned());
    let mut rest = words.iter();
    while let Some(flag) = rest.next() {
        let target = match *flag {
            "--seeds" => &mut seeds,
            "--from" => &mut from,
            other => return Err(Failure::Usage(format!("soak knows --seeds and --from, not `{other}`"))),
        };
        let value = rest.next().ok_or_else(|| Failure::Usage(format!("{flag} needs a number")))?;
        value.parse::<u64>().map_err(|_| Failure::Usage(format!("{flag} needs a number, not `{value}`")))?;
        *target = (*value).to_owned();
    }
    process::run(
        process::cargo()
            .args(["run", "--release", "--locked", "-p", "portcullis-sim", "--", "--seeds", &seeds, "--from", &from])
            .current_dir(workspace::root()),
    )
}
