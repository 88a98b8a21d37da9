//! placeholder
use crate::cli::exit::{Failure, Outcome};
pub fn run(_: &crate::cli::DemoArgs) -> Outcome {
    Err(Failure::config("not yet"))
}
