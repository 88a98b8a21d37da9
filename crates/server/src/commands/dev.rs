//! placeholder
use crate::cli::exit::{Failure, Outcome};
pub fn run(_: &crate::cli::DevArgs) -> Outcome {
    Err(Failure::config("not yet"))
}
