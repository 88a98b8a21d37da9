//! placeholder while the store lands
use crate::cli::exit::{Failure, Outcome};
use crate::settings::sources::Flags;
pub fn run(_: &Flags) -> Outcome {
    Err(Failure::config("not yet"))
}
